"""HEAD on every route: the response to GET, without the body and without waiting."""

import httpx
import pytest

from tests.api.job_events import run_response, submit
from tests.api.served import served
from tests.fakes_api import FakeService

PAGES = ["/docs", "/redoc", "/openapi.json", "/static-offline-docs/swagger-ui.css"]
CHANGING = {"date", "content-length", "last-modified", "etag"}


def get_routes(service: FakeService, job_id: str) -> list[str]:
    paths = service.app.openapi()["paths"]
    routes = [path for path, methods in paths.items() if "get" in methods]
    assert len(routes) >= 12
    ids = {"job_id": job_id, "response_id": job_id, "model_id": "letters"}
    ids |= {"file_id": "file-unknown", "batch_id": "batch_unknown"}
    return [path.format(**ids) for path in routes] + PAGES


def lasting(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in CHANGING}


async def test_head_has_the_status_and_headers_of_get_and_no_body(service: FakeService) -> None:
    job_id = await run_response(service)
    async with served(service.asgi) as client:
        for path in [*get_routes(service, job_id), "/jobs/unknown", "/nowhere"]:
            get, head = await client.get(path), await client.head(path)
            assert head.status_code == get.status_code, path
            assert head.content == b""
            assert lasting(head.headers) == lasting(get.headers), path
            assert ("content-length" in head.headers) == ("content-length" in get.headers), path


async def test_head_of_a_running_job_neither_waits_nor_streams(service: FakeService) -> None:
    service.worker.paused = True
    job_id = await submit(service)
    await service.until(lambda: service.worker.seen)
    async with served(service.asgi) as client:
        waiting = await client.head(f"/jobs/{job_id}?wait=3600")
        assert waiting.status_code == 200
        stream = await client.head(f"/jobs/{job_id}/events")
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["location"] == f"/jobs/{job_id}"
        body = {"input": "hi", "background": True}
        response_id = (await client.post("/v1/responses", json=body)).json()["id"]
        events = await client.head(f"/v1/responses/{response_id}?stream=true")
        assert events.headers["content-type"].startswith("text/event-stream")
        job = await client.get(f"/jobs/{job_id}")
    assert job.json()["status"] == "running"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/chat", "POST"),
        ("/jobs", "DELETE, GET, HEAD, POST"),
        ("/jobs/unknown", "DELETE, GET, HEAD"),
        ("/jobs/unknown/events", "GET, HEAD"),
        ("/jobs/unknown/retry/", "POST"),
        ("/v1/models/a/b", "GET, HEAD"),
        ("/v1/responses/unknown", "DELETE, GET, HEAD"),
        ("/health", "GET, HEAD"),
        *[(page, "GET, HEAD") for page in PAGES],
    ],
)
async def test_a_405_lists_the_allowed_methods(
    service: FakeService, path: str, methods: str
) -> None:
    refused = ["PATCH"] if "HEAD" in methods else ["PATCH", "HEAD"]
    for method in refused:
        response = await service.http.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"] == methods


def test_the_openapi_document_has_no_head_operations(service: FakeService) -> None:
    for methods in service.app.openapi()["paths"].values():
        assert "head" not in methods
