"""`reuse`: which requests may take the tokens of another job, and what their jobs have."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.job_events import claim_job
from tests.fakes_api import FakeService

SEED = {"seed": 5, "max_new_tokens": 3}
GREEDY = {"do_sample": False, "max_new_tokens": 3}
HEADER = "Falconer-Reuse"


async def post(service: FakeService, path: str = "/jobs", **fields: Any) -> httpx.Response:
    body = {"prompt": "one two three", "generate_kwargs": SEED, "reuse": "finished"} | fields
    response = await service.http.post(path, json=body)
    assert response.is_success, response.text
    return response


async def ended(service: FakeService, **fields: Any) -> str:
    job_id: str = (await post(service, **fields)).json()["id"]
    await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    return job_id


async def test_a_request_joins_a_job_that_waits_or_runs(service: FakeService) -> None:
    service.worker.paused = True
    first = await post(service)
    assert HEADER not in first.headers
    for reuse in ("running", "finished"):
        response = await post(service, reuse=reuse, priority=3, metadata={"a": "b"})
        assert response.headers[HEADER] == "running"
        job = response.json()
        assert job["id"] != first.json()["id"]
        assert job["origin"] == {"kind": "reuse", "job_id": first.json()["id"]}
    await service.until(lambda: len(service.worker.seen) == 3)
    old_id = first.json()["id"]
    joined_to = {job.id: job.joined_to for job in service.worker.seen}
    assert joined_to.pop(old_id) is None
    assert list(joined_to.values()) == [old_id, old_id]
    assert all(job.stream for job in service.worker.seen)


async def test_only_finished_takes_the_tokens_of_a_job_that_succeeded(
    service: FakeService,
) -> None:
    await ended(service)
    second = await post(service, reuse="running")
    assert HEADER not in second.headers
    old_id = second.json()["id"]
    await service.http.get(f"/jobs/{old_id}", params={"wait": 30})
    finished = await post(service, "/chat")
    assert finished.headers[HEADER] == "finished"
    record = (await service.http.get(f"/jobs/{finished.json()['id']}")).json()
    assert record["origin"] == {"kind": "reuse", "job_id": old_id}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "one two four"},
        {"adapter": "verse"},
        {"generate_kwargs": SEED | {"seed": 6}},
        {"generate_kwargs": SEED | {"top_k": 3}},
        {"generate_kwargs": SEED | {"max_new_tokens": 4}},
        {"generate_kwargs": GREEDY},
        {"reuse": "never"},
    ],
)
async def test_another_request_takes_no_tokens(
    service: FakeService, fields: dict[str, Any]
) -> None:
    await ended(service)
    response = await post(service, **fields)
    assert HEADER not in response.headers
    assert "origin" not in response.json()


async def test_a_request_that_never_reuses_shares_no_tokens(service: FakeService) -> None:
    await ended(service, reuse="never")
    assert HEADER not in (await post(service)).headers


async def test_the_seed_of_greedy_decoding_does_not_matter(service: FakeService) -> None:
    await ended(service, generate_kwargs=GREEDY | {"seed": 1})
    response = await post(service, generate_kwargs=GREEDY, return_full_text=False)
    assert response.headers[HEADER] == "finished"


async def test_a_job_that_failed_is_run_again(workerless: FakeService) -> None:
    await post(workerless)
    await (await claim_job(workerless)).fail()
    assert HEADER not in (await post(workerless)).headers


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 2, "do_sample": False}])
async def test_a_request_with_other_tokens_in_each_run_is_refused(
    service: FakeService, kwargs: dict[str, Any]
) -> None:
    for path, body in (("/chat", {"generate_kwargs": kwargs}), ("/v1/completions", kwargs)):
        response = await service.http.post(path, json={"prompt": "one", "reuse": "running"} | body)
        assert response.status_code in (400, 422)
        assert "reuse" in response.text


async def test_a_completion_takes_tokens_too(service: FakeService) -> None:
    body = {"prompt": "one two", "temperature": 0, "max_tokens": 3, "reuse": "finished"}
    first = await service.http.post("/v1/completions", json=body)
    second = await service.http.post("/v1/completions", json=body)
    assert (HEADER in first.headers, second.headers[HEADER]) == (False, "finished")


async def test_a_line_of_a_batch_with_reuse_is_refused(service: FakeService) -> None:
    line = {"custom_id": "a", "body": {"prompt": "one", "temperature": 0, "reuse": "running"}}
    body = {"requests": [line], "endpoint": "/v1/completions", "completion_window": "1h"}
    batch = (await service.http.post("/v1/batches", json=body)).json()
    for _ in range(3000):
        if batch["status"] == "completed":
            break
        await asyncio.sleep(0.01)
        batch = (await service.http.get(f"/v1/batches/{batch['id']}")).json()
    errors = await service.http.get(f"/v1/files/{batch['error_file_id']}/content")
    assert errors.json()["response"]["body"]["error"]["param"] == "reuse"
