"""Leases: renewal, release, expiry, and outages of Redis."""

import pytest
from redis.asyncio import Redis

from shared.protocol import JobStatus
from shared.queue.backlog import Depth
from shared.queue.job_queue import JobQueue
from shared.queue.keys import MIN_RECORD_TTL_S, Keys
from shared.queue.token_log import TokenLog
from tests.factories import make_job, make_succeeded
from tests.shared.queue.harness import QueueHarness
from tests.shared.queue.jobs import (
    EXPIRED_AT_ONCE_MS,
    LEASE_MS,
    claim,
    claim_one,
    enqueue,
    failed,
    finish,
    ids,
    start_run,
)

# -- renewal ----------------------------------------------------------------------------------


async def test_a_renewed_lease_is_not_claimed(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    renewal = await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=LEASE_MS)
    assert (renewal.lost, renewal.cancelled) == ([], [])
    assert ids(await claim(queue, "w2")) == []


async def test_a_renewal_reports_a_lease_that_another_worker_owns(queue: JobQueue) -> None:
    mine, kept = await enqueue(queue), await enqueue(queue)
    first = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    second = await claim_one(queue, "w2")
    third = await claim_one(queue, "w1")
    assert (first.job.id, second.job.id, third.job.id) == (mine.id, mine.id, kept.id)
    fencing_tokens = {mine.id: first.fencing_token, kept.id: third.fencing_token}
    assert (await queue.renew("w1", fencing_tokens, lease_ms=LEASE_MS)).lost == [mine.id]


async def test_a_renewal_reports_a_finished_job_as_lost(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await finish(queue, claimed)
    assert (await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=9)).lost == [job.id]
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_a_renewal_restores_a_lease_that_redis_lost(queue: JobQueue, redis: Redis) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await redis.flushall()
    renewal = await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=LEASE_MS)
    assert renewal.lost == []
    assert await queue.depth() == Depth(waiting=0, running=1)
    assert await finish(queue, claimed)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.SUCCEEDED


async def test_a_job_that_redis_lost_ends_if_its_worker_dies(queue: JobQueue, redis: Redis) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await redis.flushall()
    await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=EXPIRED_AT_ONCE_MS)
    [dead] = (await claim(queue, "w2")).dead_letters
    assert (dead.job_id, dead.previous_fencing_token) == (job.id, claimed.fencing_token)
    assert await queue.finish(dead, failed(job.id), fencing_token=dead.fencing_token)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.FAILED


async def test_a_job_of_another_model_that_redis_lost_keeps_its_model(
    queue: JobQueue, redis: Redis
) -> None:
    beta = JobQueue(redis, Keys(model="beta"))
    for renews in (True, False):
        job = await enqueue(beta)
        claimed = await claim_one(beta)
        await redis.flushall()
        if renews:
            await beta.renew("w1", {job.id: claimed.fencing_token}, lease_ms=LEASE_MS)
            record = await queue.cancel(job.id)  # the api cancels a job of any model by its id
            assert record is not None
            assert (record.status, record.model) == (JobStatus.RUNNING, "beta")
        assert await finish(beta, claimed)
        record = await queue.record(job.id)
        assert record is not None
        assert (record.status, record.model) == (JobStatus.SUCCEEDED, "beta")


async def test_a_renewal_does_not_restore_an_older_fencing_token(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    second = await claim_one(queue, "w2")
    await queue.release("w2", {job.id: second.fencing_token})
    assert (await queue.renew("w1", {job.id: frozen.fencing_token}, lease_ms=0)).lost == [job.id]
    assert (await claim_one(queue, "w2")).previous_fencing_token == second.fencing_token


async def test_a_worker_frozen_for_longer_than_the_ttl_finishes_no_job_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue, make_job(ttl_s=1))
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    await finish(queue, await claim_one(queue, "w2"))
    await redis.delete(keys.arq_result(job.id))  # as its ttl does
    assert await redis.pttl(keys.record(job.id)) > 60_000
    assert await queue.record(job.id) is None
    assert (await queue.renew("w1", {job.id: frozen.fencing_token}, lease_ms=9)).lost == [job.id]
    assert not await finish(queue, frozen)
    assert await redis.xlen(keys.replies("api-1")) == 1


async def test_an_old_lease_of_a_job_without_a_record_finishes_no_job_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    """Its worker was cut off until another worker's outcome and record had expired."""
    job = await enqueue(queue)
    claimed = await claim_one(queue, "w1")
    await redis.flushall()
    old = claimed.fencing_token - 1000 * MIN_RECORD_TTL_S
    assert not await queue.start("w1", job.id, fencing_token=old, lease_ms=LEASE_MS)
    assert (await queue.renew("w1", {job.id: old}, lease_ms=LEASE_MS)).lost == [job.id]
    log = TokenLog(redis, keys)
    assert await log.append("w1", [(job.id, old, 0, [b"a"])]) == [None]
    assert not await queue.finish(claimed, make_succeeded(job.id), fencing_token=old)
    assert await redis.keys() == []


# -- release ----------------------------------------------------------------------------------


async def test_a_released_job_returns_to_its_place_without_an_attempt(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await start_run(redis, keys, job)
    record = await queue.record(job.id)
    assert record is not None and record.attempts == 1
    later = await enqueue(queue)
    await redis.delete(keys.wake)
    assert await queue.release("w1", {job.id: claimed.fencing_token}) == 1
    record = await queue.record(job.id)
    assert record is not None
    assert (record.status, record.attempts, record.position) == (JobStatus.QUEUED, 0, 1)
    assert (record.worker, record.started_ms) == (None, None)
    assert await redis.llen(keys.wake) == 1
    assert ids(await claim(queue, "w2")) == [job.id, later.id]


async def test_a_late_renewal_does_not_claim_a_released_job(
    queue: JobQueue,
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await queue.release("w1", {job.id: claimed.fencing_token})
    renewal = await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=LEASE_MS)
    assert renewal.lost == [job.id]
    assert not await finish(queue, claimed)
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_only_the_owner_of_the_lease_can_release_a_job(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    await claim_one(queue, "w2")
    assert await queue.release("w1", {job.id: frozen.fencing_token}) == 0
    assert await queue.depth() == Depth(waiting=0, running=1)


# -- expiry -----------------------------------------------------------------------------------


async def claim_each_second(
    harness: QueueHarness, worker_id: str, times: int, *, period_s: float = 1.0
) -> list[str]:
    """Claim once a second, as a worker does; return the ids of the claimed jobs."""
    job_ids: list[str] = []
    for _ in range(times):
        harness.clock.now_s += period_s
        job_ids += ids(await claim(harness.queue, worker_id))
    return job_ids


async def leased_job(harness: QueueHarness) -> str:
    job_id = (await harness.submit()).job_id
    assert ids(await claim(harness.queue, "owner")) == [job_id]
    return job_id


async def test_an_expired_lease_is_taken_over_while_workers_claim(
    harness: QueueHarness,
) -> None:
    job_id = await leased_job(harness)
    assert await claim_each_second(harness, "other", 59) == []
    assert await claim_each_second(harness, "other", 2) == [job_id]


async def test_leases_that_expired_during_an_outage_stay_with_their_workers(
    harness: QueueHarness,
) -> None:
    """No script ran for two minutes: Redis was away or frozen, or its clock jumped."""
    job_id = await leased_job(harness)
    harness.clock.now_s += 120.0
    after = await claim(harness.queue, "other")
    assert (after.jobs, after.is_after_outage) == ([], True)
    assert await claim_each_second(harness, "other", 1) == []
    assert await claim_each_second(harness, "other", 1) == [job_id]  # its worker did not renew
    assert not (await claim(harness.queue, "other")).is_after_outage


@pytest.mark.parametrize("period_s", [1.6, 10.0])
async def test_a_worker_that_claims_too_seldom_takes_over_expired_leases(
    harness: QueueHarness, period_s: float
) -> None:
    """Each of its claims follows a gap that looks like an outage."""
    job_id = await leased_job(harness)
    times = round(LEASE_MS / 1000 / period_s) + 2
    assert await claim_each_second(harness, "slow", times, period_s=period_s) == [job_id]


async def test_a_lease_renewed_after_an_outage_stays_valid(harness: QueueHarness) -> None:
    job = await harness.submit()
    [claimed] = (await claim(harness.queue, "owner")).jobs
    harness.clock.now_s += 120.0
    await claim(harness.queue, "other")
    renewal = await harness.queue.renew(
        "owner", {job.job_id: claimed.fencing_token}, lease_ms=LEASE_MS
    )
    assert renewal.lost == []
    assert await claim_each_second(harness, "other", 9) == []


async def test_waiting_jobs_are_claimed_right_after_an_outage(harness: QueueHarness) -> None:
    await leased_job(harness)
    harness.clock.now_s += 120.0
    waiting = await harness.submit()
    assert ids(await claim(harness.queue, "other")) == [waiting.job_id]


async def test_the_first_claim_of_a_queue_is_not_after_an_outage(harness: QueueHarness) -> None:
    assert not (await claim(harness.queue, "first")).is_after_outage
