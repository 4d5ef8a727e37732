"""A path leads to its route with a trailing slash too."""

import pytest

from tests.api.followed import ended
from tests.fakes_api import FakeService


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_a_post_is_answered_with_a_slash_behind_its_path(
    service: FakeService, path: str
) -> None:
    plain = await service.http.post(path, json={"prompt": "hello"})
    slashed = await service.http.post(path + "/", json={"prompt": "hello"})
    assert plain.status_code == slashed.status_code
    assert plain.json().keys() == slashed.json().keys()


async def test_every_get_is_answered_with_a_slash_behind_its_path(service: FakeService) -> None:
    job_id = await ended(service)
    paths = [path for path, methods in service.app.openapi()["paths"].items() if "get" in methods]
    assert len(paths) >= 12
    for template in [*paths, "/docs", "/openapi.json", "/nowhere"]:
        path = template.format(job_id=job_id, model_id="letters")
        plain, slashed = [await service.http.get(path + end) for end in ("", "/")]
        assert plain.status_code == slashed.status_code, path
        assert plain.headers["content-type"] == slashed.headers["content-type"]


async def test_the_other_methods_are_too(service: FakeService) -> None:
    job_id = await ended(service)
    assert (await service.http.delete(f"/jobs/{job_id}/")).json()["id"] == job_id
    assert (await service.http.post(f"/jobs/{job_id}/retry/")).status_code == 409
    assert (await service.http.delete("/jobs/?status=queued")).status_code == 200


async def test_requests_are_counted_by_route_and_not_by_spelling(service: FakeService) -> None:
    await service.http.get("/jobs/")
    await service.http.get("/jobs")
    text = (await service.http.get("/metrics")).text
    assert 'falconer_requests_total{code="200",route="/jobs"} 2.0' in text
