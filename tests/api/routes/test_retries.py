"""`POST /jobs/{id}/retry`: a retry is a new job with exactly one terminal event."""

from typing import Any

import httpx

from tests.api.job_events import LAST, JobWriter, claim_job, events, run_job, submit, texts
from tests.fakes_api import FakeService

KEY = {"Idempotency-Key": "k1"}


async def retry(service: FakeService, job_id: str) -> dict[str, Any]:
    response = await service.http.post(f"/jobs/{job_id}/retry")
    assert response.status_code == 202
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/jobs/{job['id']}"
    return job


async def look(service: FakeService, job_id: str, wait_s: float = 0) -> dict[str, Any]:
    response = await service.http.get(f"/jobs/{job_id}", params={"wait": wait_s})
    job: dict[str, Any] = response.json()
    return job


async def test_a_failed_job_is_retried_under_a_new_id(service: FakeService) -> None:
    old_id = await run_job(service, prompt="fail")
    new = await retry(service, old_id)
    assert new["id"] != old_id
    assert (new["status"], new["position"], new["retry_of"]) == ("queued", 1, old_id)
    assert (await look(service, new["id"], 30))["status"] == "failed"
    assert [job.id for job in service.worker.seen] == [old_id, new["id"]]
    old = await look(service, old_id)
    assert (old["status"], old["retried_as"]) == ("failed", new["id"])
    assert "retry_of" not in old


async def test_the_listing_shows_a_job_and_its_retry(workerless: FakeService) -> None:
    old_id = await submit(workerless)
    await workerless.http.delete(f"/jobs/{old_id}")
    new = await retry(workerless, old_id)
    jobs = (await workerless.http.get("/jobs")).json()["jobs"]
    assert {job["id"]: (job.get("retry_of"), job.get("retried_as")) for job in jobs} == {
        old_id: (None, new["id"]),
        new["id"]: (old_id, None),
    }


async def test_a_retry_can_succeed(workerless: FakeService) -> None:
    old_id = await submit(workerless, prompt="hello")
    await workerless.http.delete(f"/jobs/{old_id}")
    new = await retry(workerless, old_id)
    await workerless.start_worker()
    job = await look(workerless, new["id"], 30)
    assert (job["status"], job["result"]["Result"]) == ("succeeded", "hello HELLO")
    assert job["result"]["id"] == new["id"]
    assert (await look(workerless, old_id))["status"] == "cancelled"


async def test_a_repeated_request_returns_the_retry_as_it_is(workerless: FakeService) -> None:
    old_id = await submit(workerless, prompt="hello")
    await workerless.http.delete(f"/jobs/{old_id}")
    new = await retry(workerless, old_id)
    again = await retry(workerless, old_id)
    assert (again["id"], again["status"], again["retry_of"]) == (new["id"], "queued", old_id)
    await workerless.start_worker()
    await look(workerless, new["id"], 30)
    last = await retry(workerless, old_id)
    assert (last["id"], last["status"]) == (new["id"], "succeeded")


async def test_a_failed_retry_is_retried_itself(service: FakeService) -> None:
    first_id = await run_job(service, prompt="fail")
    second = await retry(service, first_id)
    await look(service, second["id"], 30)
    third = await retry(service, second["id"])
    assert third["retry_of"] == second["id"] != third["id"]


async def test_job_and_retry_have_a_stream_with_one_terminal_event_each(
    workerless: FakeService, writer: JobWriter
) -> None:
    await writer.write("a", "b")
    await writer.fail()
    new = await retry(workerless, writer.job.id)
    retried = await claim_job(workerless)
    assert retried.job.id == new["id"]
    await retried.write("c")
    await retried.finish()
    for job_id, words, status in (
        (writer.job.id, ["a", "b"], "failed"),
        (new["id"], ["c"], "succeeded"),
    ):
        *deltas, end = await events(workerless, job_id)
        assert texts(deltas) == words
        assert [event["index"] for event in (*deltas, end)] == list(range(len(words) + 1))
        assert end["status"] == status
        last = {LAST: str(end["index"])}
        response = await workerless.http.get(f"/jobs/{job_id}/events", headers=last)
        assert response.status_code == 204


async def test_the_idempotency_key_of_a_job_finds_its_retry(workerless: FakeService) -> None:
    async def post(path: str) -> httpx.Response:
        return await workerless.http.post(path, json={"prompt": "hello"}, headers=KEY)

    old_id = (await post("/jobs")).json()["id"]
    await workerless.http.delete(f"/jobs/{old_id}")
    assert (await post("/jobs")).json()["id"] == old_id
    new = await retry(workerless, old_id)
    assert (await post("/jobs")).json()["id"] == new["id"]
    await workerless.start_worker()
    result = await post("/chat")
    assert (result.status_code, result.json()["id"]) == (200, new["id"])


async def test_a_job_that_succeeded_is_a_conflict_that_names_its_status(
    service: FakeService,
) -> None:
    response = await service.http.post(f"/jobs/{await run_job(service)}/retry")
    assert response.status_code == 409
    assert "succeeded" in response.json()["detail"]


async def test_an_unknown_job_cannot_be_retried(service: FakeService) -> None:
    response = await service.http.post("/jobs/unknown/retry")
    assert response.status_code == 404
    assert "no job 'unknown'" in response.json()["detail"]
