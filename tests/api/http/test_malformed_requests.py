"""Malformed headers, paths and queries get a 4xx that names them."""

import pytest

from tests.api.refusals import JSON, body, check_refusal
from tests.fakes_api import FakeService


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "x"])
async def test_a_body_without_a_json_type_is_rejected(
    service: FakeService, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    response = await service.http.post("/chat", content=body(), headers=headers)
    check_refusal(response.status_code, response.text, 415, [media_type, "application/json"])


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/ld+json"])
async def test_each_json_type_is_accepted(service: FakeService, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    response = await service.http.post("/chat", content=body(), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ({"Prefer": "wait=soon"}, ["Prefer", "wait"]),
        ({"Prefer": "wait=-1"}, ["Prefer", "wait"]),
        ({"Prefer": "wait=1.5"}, ["Prefer", "wait"]),
        ({"Prefer": "respond-async, wait="}, ["Prefer", "wait"]),
        ({"Idempotency-Key": ""}, ["Idempotency-Key", "1"]),
        ({"Idempotency-Key": "k" * 256}, ["Idempotency-Key", "255"]),
    ],
)
async def test_a_malformed_header_is_rejected_by_name(
    service: FakeService, headers: dict[str, str], names: list[str]
) -> None:
    response = await service.http.post("/chat", content=body(), headers=JSON | headers)
    assert response.status_code in (400, 422)
    check_refusal(response.status_code, response.text, response.status_code, names)
    assert service.worker.seen == []


@pytest.mark.parametrize("wait", ["-1", "soon", "3601", "nan", "inf", ""])
async def test_a_malformed_wait_is_rejected_by_name(service: FakeService, wait: str) -> None:
    response = await service.http.get("/jobs/unknown", params={"wait": wait})
    check_refusal(response.status_code, response.text, 422, ["wait"])


@pytest.mark.parametrize("job_id", ["unknown", "0" * 32, "a" * 5000, "%00", "..%2f..", "%ff"])
async def test_an_unknown_job_is_not_found(service: FakeService, job_id: str) -> None:
    for method in ("GET", "DELETE"):
        response = await service.http.request(method, f"/jobs/{job_id}")
        assert response.status_code == 404
        assert len(response.json()["detail"]) < 200


@pytest.mark.parametrize("path", ["/chat//", "/Chat", "//chat", "/chat/x"])
async def test_a_similar_path_is_not_found(service: FakeService, path: str) -> None:
    response = await service.http.post(path, content=body(), headers=JSON)
    assert response.status_code in (404, 405)
    assert "detail" in response.json()
