"""`POST /jobs/{id}/replay`: which jobs can be replayed, and the new job's request."""

import httpx

from tests.api.job_events import run_job, submit
from tests.fakes_api import FakeService

WORDS = {"prompt": "one two three", "model": "letters", "generate_kwargs": {"max_new_tokens": 3}}


async def replay(service: FakeService, job_id: str) -> httpx.Response:
    return await service.http.post(f"/jobs/{job_id}/replay")


async def test_the_new_job_is_the_same_request_with_the_tokens_to_compare(
    service: FakeService,
) -> None:
    old_id = await run_job(service, **WORDS)
    service.worker.paused = True
    response = await replay(service, old_id)
    assert response.status_code == 202, response.text
    assert response.json()["origin"] == {"kind": "replay", "job_id": old_id}
    await service.until(lambda: len(service.worker.seen) == 2)
    old, job = service.worker.seen
    assert (job.token_ids, job.seed, job.generate_kwargs) == (
        old.token_ids,
        old.seed,
        old.generate_kwargs,
    )
    assert job.replay is not None
    assert (job.replay.token_ids, job.inherited_deltas) == ([[0, 1, 2]], 0)


async def test_a_replay_of_a_fork_begins_with_the_same_tokens(service: FakeService) -> None:
    old_id = await run_job(service, **WORDS)
    service.worker.paused = True
    forked = await service.http.post(f"/jobs/{old_id}/fork", json={"at": 2})
    await service.until(lambda: len(service.worker.seen) == 2)
    service.worker.paused = False
    fork_id = forked.json()["id"]
    await service.http.get(f"/jobs/{fork_id}", params={"wait": 30})
    service.worker.paused = True
    assert (await replay(service, fork_id)).status_code == 202
    await service.until(lambda: len(service.worker.seen) == 3)
    job = service.worker.seen[2]
    assert job.inherited_deltas == 2
    log = await service.services.redis.token_log.read(job.id, 0)
    assert [delta.token_ids for delta in log] == [[0], [1]]


async def test_a_replay_can_be_continued_without_its_comparison(service: FakeService) -> None:
    replayed = (await replay(service, await run_job(service, **WORDS))).json()["id"]
    await service.http.get(f"/jobs/{replayed}", params={"wait": 30})
    response = await service.http.post(f"/jobs/{replayed}/continue", json={"max_new_tokens": 1})
    assert response.status_code == 202, response.text
    await service.until(lambda: len(service.worker.seen) == 3)
    assert service.worker.seen[2].replay is None


async def test_only_a_job_with_a_token_log_that_succeeded_can_be_replayed(
    service: FakeService,
) -> None:
    service.worker.paused = True
    running = await replay(service, await submit(service))
    assert (running.status_code, "must be succeeded" in running.json()["detail"]) == (409, True)
    service.worker.paused = False
    plain = (await service.http.post("/chat", json=WORDS)).json()["id"]
    refused = await replay(service, plain)
    assert (refused.status_code, "token log" in refused.json()["detail"]) == (409, True)
    assert (await replay(service, "unknown")).status_code == 404


async def test_a_job_that_lost_tokens_with_redis_cannot_be_replayed(service: FakeService) -> None:
    job_id = await run_job(service, **WORDS)
    await service.redis.ltrim(service.keys.token_log(job_id), 0, 0)
    response = await replay(service, job_id)
    assert (response.status_code, "lost tokens" in response.json()["detail"]) == (409, True)
