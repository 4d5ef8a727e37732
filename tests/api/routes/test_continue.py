"""`POST /jobs/{id}/continue`: which jobs can be continued, and the new job's request and log."""

from typing import Any

import httpx
import pytest

from shared.protocol import encode
from tests.api.job_events import JobWriter, claim_job, run_job, submit
from tests.fakes_api import FakeService

WORDS = {"prompt": "one two three", "generate_kwargs": {"max_new_tokens": 3, "seed": 5}}


async def post(service: FakeService, job_id: str, **body: Any) -> httpx.Response:
    return await service.http.post(f"/jobs/{job_id}/continue", json=body or {"max_new_tokens": 7})


async def test_the_new_job_is_the_longer_request_with_the_old_tokens(service: FakeService) -> None:
    old_id = await run_job(service, **WORDS)
    service.worker.paused = True
    response = await post(service, old_id)
    assert response.status_code == 202
    new = response.json()
    assert new["origin"] == {"kind": "continue", "job_id": old_id}
    assert (await service.http.get(f"/jobs/{new['id']}")).json()["origin"] == new["origin"]
    await service.until(lambda: len(service.worker.seen) == 2)
    old, job = service.worker.seen
    assert job.max_new_tokens == job.generate_kwargs["max_new_tokens"] == 10
    assert (job.token_ids, job.seed, job.inherited_deltas) == (old.token_ids, 5, 2)
    log = await service.services.redis.token_log.read(new["id"], 0)
    assert [encode(delta) for delta in log] == [
        encode(delta) for delta in (await service.services.redis.token_log.read(old_id, 0))[:2]
    ]


async def test_a_job_that_has_not_succeeded_is_a_conflict(workerless: FakeService) -> None:
    job_id = await submit(workerless)
    assert "not queued" in (await post(workerless, job_id)).json()["detail"]
    writer: JobWriter = await claim_job(workerless)
    await writer.write("a")
    await writer.fail()
    response = await post(workerless, job_id)
    assert response.status_code == 409
    assert "not failed; retry it" in response.json()["detail"]


async def test_a_plain_call_has_no_tokens_to_continue(service: FakeService) -> None:
    result = await service.http.post("/chat", json=WORDS)
    response = await post(service, result.json()["id"])
    assert response.status_code == 409
    assert "token log" in response.json()["detail"]


async def test_a_continuation_beyond_the_context_gets_the_error_of_the_longer_request(
    service: FakeService,
) -> None:
    job_id = await run_job(service, **WORDS)
    response = await post(service, job_id, max_new_tokens=5000)
    kwargs = {"max_new_tokens": 5003}
    longer = await service.http.post("/jobs", json=WORDS | {"generate_kwargs": kwargs})
    assert (response.status_code, response.json()) == (longer.status_code, longer.json())


async def test_a_job_that_succeeded_can_still_not_be_retried(service: FakeService) -> None:
    job_id = await run_job(service, **WORDS)
    response = await service.http.post(f"/jobs/{job_id}/retry")
    assert response.status_code == 409
    assert "it is succeeded" in response.json()["detail"]


@pytest.mark.parametrize("body", [{"max_new_tokens": 0}, {"tokens": 1}, {"max_new_tokens": "x"}])
async def test_an_invalid_body_is_a_422(service: FakeService, body: dict[str, Any]) -> None:
    job_id = await run_job(service, **WORDS)
    assert (await post(service, job_id, **body)).status_code == 422


async def test_an_unknown_job_is_a_404(service: FakeService) -> None:
    assert (await post(service, "unknown")).status_code == 404


async def test_a_job_whose_worker_chose_the_length_is_a_conflict(workerless: FakeService) -> None:
    job_id = await submit(workerless)
    writer = await claim_job(workerless)
    await writer.write("a")
    await writer.finish()
    response = await post(workerless, job_id)
    assert response.status_code == 409
    assert "registered its model" in response.json()["detail"]


@pytest.mark.parametrize(
    ("route", "body", "other_body"),
    [
        ("continue", {"max_new_tokens": 2}, {"max_new_tokens": 3}),
        ("fork", {"at": 1}, {"at": 1, "generate_kwargs": {"seed": 9}}),
        ("replay", None, None),
    ],
)
async def test_the_same_idempotency_key_finds_the_new_job_also_without_the_old_one(
    service: FakeService, route: str, body: Any, other_body: Any
) -> None:
    old_id = await run_job(service, **WORDS)
    path, headers = f"/jobs/{old_id}/{route}", {"Idempotency-Key": f"key of {route}"}
    first = await service.http.post(path, json=body, headers=headers)
    assert first.status_code == 202, first.text
    again = await service.http.post(path, json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    if other_body is not None:
        conflict = await service.http.post(path, json=other_body, headers=headers)
        assert (conflict.status_code, "Idempotency-Key" in conflict.text) == (409, True)
    await service.services.client.delete(old_id)
    late = await service.http.post(path, json=body, headers=headers)
    assert late.json()["id"] == first.json()["id"]
    without_key = await service.http.post(path, json=body)
    assert without_key.status_code == 404
