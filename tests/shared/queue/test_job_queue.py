"""Each promise of the queue, on a fake and on a real Redis."""

import asyncio

import pytest
from redis.asyncio import Redis

from shared.errors import QueueFull
from shared.protocol import (
    ChatJob,
    Failed,
    Finished,
    JobError,
    JobStatus,
    decode_events,
    encode,
)
from shared.queue.arq_format import deserialize
from shared.queue.claims import Claim, ClaimedJob, Room, StartResult
from shared.queue.job_queue import Depth, JobQueue
from shared.queue.keys import LEASED, TOMBSTONE_S, Keys
from shared.queue.token_log import TokenLog
from shared.queue.worker_registry import Registry
from tests.factories import make_finished, make_job, make_worker_info

LEASE_MS = 60_000
EXPIRED_AT_ONCE_MS = -1000  # it ended a second ago
WIDE = Room(rows=100, tokens=100_000, running=0)


@pytest.fixture
def queue(redis: Redis, keys: Keys) -> JobQueue:
    return JobQueue(redis, keys)


async def enqueue(queue: JobQueue, job: ChatJob | None = None, priority: int = 0) -> ChatJob:
    job = job or make_job()
    await queue.enqueue(job, reply_to="api-1", priority=priority, max_queued=1000)
    return job


async def claim(
    queue: JobQueue, worker: str = "w1", room: Room = WIDE, ms: int = LEASE_MS
) -> Claim:
    return await queue.claim(worker, room, lease_ms=ms)


async def claim_one(queue: JobQueue, worker: str = "w1", ms: int = LEASE_MS) -> ClaimedJob:
    claimed = await queue.claim(worker, Room(rows=1, tokens=1000, running=0), lease_ms=ms)
    assert len(claimed.jobs) == 1
    return claimed.jobs[0]


async def finish(queue: JobQueue, claimed: ClaimedJob) -> bool:
    return await queue.finish(claimed, make_finished(claimed.job.id), fence=claimed.fence)


def ids(claimed: Claim) -> list[str]:
    return [job.job.id for job in claimed.jobs]


def failed(job_id: str) -> Failed:
    error = JobError(message="no room on the device", status_code=500)
    return Failed(job_id=job_id, attempt=1, status=JobStatus.FAILED, error=error)


async def begin_run(redis: Redis, keys: Keys, job: ChatJob) -> None:
    """What arq's run_job does first; twice, as when Redis answered too late the first time."""
    for _ in range(2):
        await redis.incr(keys.arq_retry(job.id))


async def enqueue_deadly(queue: JobQueue, redis: Redis, keys: Keys, *, deaths: int) -> ChatJob:
    """A job that so many workers have died of."""
    job = await enqueue(queue)
    for death in range(deaths):
        claimed = await claim_one(queue, f"dead-{death}", ms=EXPIRED_AT_ONCE_MS)
        assert (claimed.job, claimed.attempts) == (job, death)
        await begin_run(redis, keys, job)
    return job


# -- enqueue ----------------------------------------------------------------------------------


async def test_jobs_are_claimed_in_the_order_they_came(queue: JobQueue) -> None:
    jobs = [await enqueue(queue) for _ in range(20)]
    assert ids(await claim(queue)) == [job.id for job in jobs]


async def test_enqueueing_tells_the_position_in_the_queue(queue: JobQueue) -> None:
    positions = []
    for _ in range(3):
        enqueued = await queue.enqueue(make_job(), reply_to=None, max_queued=10)
        positions.append(enqueued.outlook.position)
    assert positions == [1, 2, 3]


async def test_a_higher_priority_overtakes_within_its_window(queue: JobQueue) -> None:
    normal, low = await enqueue(queue), await enqueue(queue, priority=-1)
    high = await enqueue(queue, priority=1)
    assert ids(await claim(queue)) == [high.id, normal.id, low.id]


async def test_priority_is_a_bounded_head_start_not_a_class(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    old = await enqueue(queue)
    await redis.zincrby(keys.queue, -60_001, old.id)  # it has waited a minute
    high = await enqueue(queue, priority=2)
    assert ids(await claim(queue)) == [old.id, high.id]


async def test_a_full_queue_refuses_and_names_the_limit(queue: JobQueue) -> None:
    for _ in range(2):
        await queue.enqueue(make_job(), reply_to=None, max_queued=2)
    with pytest.raises(QueueFull, match="2 jobs are waiting, at most 2 may"):
        await queue.enqueue(make_job(), reply_to=None, max_queued=2)
    assert await queue.depth() == Depth(waiting=2, running=0)


async def test_running_jobs_do_not_fill_the_queue(queue: JobQueue) -> None:
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    await claim(queue)
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    assert await queue.depth() == Depth(waiting=1, running=1)


async def test_jobs_that_nobody_came_for_do_not_fill_the_queue_for_ever(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    gone = await enqueue(queue)
    await redis.delete(keys.record(gone.id))  # as its ttl does
    await redis.zincrby(keys.queue, -26 * 3_600_000, gone.id)
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_the_wake_list_stays_short_however_many_jobs_come(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    for _ in range(50):
        await enqueue(queue)
    assert await redis.llen(keys.wake) == 1


# -- claim ------------------------------------------------------------------------------------


async def test_a_claimed_job_leaves_the_head_of_the_queue(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await claim(queue)
    waiting = await enqueue(queue)
    assert await redis.zrange(keys.queue, 0, -1) == [waiting.id.encode(), job.id.encode()]
    assert await redis.zscore(keys.queue, job.id) > LEASED
    assert ids(await claim(queue, "w2")) == [waiting.id]


async def test_a_claim_brings_all_that_the_worker_needs(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    assert claimed.job == job
    assert (claimed.fence, claimed.earlier_fence, claimed.attempts) == (claimed.started_ms, 0, 0)
    assert claimed.started_ms >= claimed.created_ms > 0
    record = await queue.record(job.id)
    assert record is not None
    assert (record.status, record.worker, record.position) == (JobStatus.RUNNING, "w1", None)


async def test_live_workers_share_what_is_ready(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    for worker in ("w1", "w2", "w3"):
        await registry.report(make_worker_info(worker))
    for _ in range(10):
        await enqueue(queue)
    assert len(ids(await claim(queue, "w1"))) == 4  # ceil(10 / 3)
    assert len(ids(await claim(queue, "w2"))) == 2  # ceil(6 / 3)


async def test_what_is_left_over_wakes_the_next_worker(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    for _ in range(2):
        await enqueue(queue)
    await redis.delete(keys.wake)
    await claim_one(queue)
    assert await redis.llen(keys.wake) == 1
    await redis.delete(keys.wake)
    await claim_one(queue)
    assert await redis.llen(keys.wake) == 0


@pytest.mark.parametrize("room", [Room(rows=2, tokens=1000, running=1), Room(9, 20, 1)])
async def test_only_what_fits_is_claimed(queue: JobQueue, room: Room) -> None:
    jobs = [await enqueue(queue) for _ in range(3)]  # 1 row and 10 tokens each
    claimed = await claim(queue, room=room)
    assert ids(claimed) == [job.id for job in jobs[:2]]


async def test_a_job_that_does_not_fit_is_not_overtaken(queue: JobQueue) -> None:
    await enqueue(queue, make_job(generate_kwargs={"num_return_sequences": 4}))
    await enqueue(queue)
    claimed = await claim(queue, room=Room(rows=3, tokens=1000, running=1))
    assert (claimed.jobs, claimed.is_stalled) == ([], True)


async def test_an_empty_worker_takes_a_job_of_any_size(queue: JobQueue) -> None:
    large = await enqueue(queue, make_job(generate_kwargs={"num_return_sequences": 4}))
    claimed = await claim(queue, room=Room(rows=3, tokens=10, running=0))
    assert ids(claimed) == [large.id]


async def test_a_claim_of_nothing_is_not_stalled(queue: JobQueue) -> None:
    claimed = await claim(queue)
    assert (claimed.jobs, claimed.is_stalled) == ([], False)


async def test_an_expired_lease_goes_before_the_backlog(queue: JobQueue) -> None:
    lost = await enqueue(queue)
    first = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    waiting = await enqueue(queue)
    claimed = await claim(queue, "w2")
    assert ids(claimed) == [lost.id, waiting.id]
    assert claimed.jobs[0].fence > claimed.jobs[0].earlier_fence == first.fence


async def test_a_valid_lease_is_left_alone(queue: JobQueue) -> None:
    await enqueue(queue)
    await claim(queue, "w1")
    assert ids(await claim(queue, "w2")) == []


async def test_a_job_on_its_last_attempt_runs_alone(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    suspect = await enqueue_deadly(queue, redis, keys, deaths=2)
    other = await enqueue(queue)
    busy = await claim(queue, room=Room(rows=9, tokens=1000, running=1))
    assert (busy.jobs, busy.is_stalled) == ([], True)
    assert ids(await claim(queue)) == [suspect.id]
    assert ids(await claim(queue, "w2")) == [other.id]


async def test_a_job_out_of_attempts_is_handed_out_to_be_given_up(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    poison = await enqueue_deadly(queue, redis, keys, deaths=3)
    next_job = await enqueue(queue)
    claimed = await claim(queue, room=Room(rows=1, tokens=10, running=1))
    assert ids(claimed) == [next_job.id]
    [given_up] = claimed.hopeless
    assert (given_up.job_id, given_up.attempts) == (poison.id, 3)
    assert given_up.reason == "the worker running this job died 3 times; given up"


async def test_a_lease_that_ends_before_its_run_began_is_no_attempt(queue: JobQueue) -> None:
    await enqueue(queue)
    earlier_fence = 0
    for _ in range(4):
        claimed = await claim_one(queue, ms=EXPIRED_AT_ONCE_MS)
        assert (claimed.earlier_fence, claimed.attempts) == (earlier_fence, 0)
        earlier_fence = claimed.fence


async def test_a_death_is_counted_once(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    await enqueue_deadly(queue, redis, keys, deaths=1)
    for _ in range(3):  # taken by a worker that goes on with its run, or that never began one
        assert (await claim_one(queue, ms=EXPIRED_AT_ONCE_MS)).attempts == 1


async def test_a_job_whose_data_is_gone_is_handed_out_to_be_ended(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    gone, job = await enqueue(queue), await enqueue(queue)
    await redis.delete(keys.record(gone.id))
    claimed = await claim(queue)
    assert ids(claimed) == [job.id]
    [hopeless] = claimed.hopeless
    assert hopeless.job_id == gone.id
    assert "waited for too long, or Redis lost it" in hopeless.reason
    assert await queue.finish(hopeless, failed(gone.id), fence=hopeless.fence)
    record = await queue.record(gone.id)
    assert record is not None and record.status is JobStatus.FAILED
    assert await queue.depth() == Depth(waiting=0, running=1)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xc1", "cannot read this job"),
        (encode({"version": 1, "id": 5}), "cannot read this job"),
        (encode(make_job(version=99)), "protocol version 99; its worker reads up to 2"),
    ],
)
async def test_a_job_of_another_version_does_not_keep_others_from_running(
    queue: JobQueue, redis: Redis, keys: Keys, payload: bytes, reason: str
) -> None:
    strange, job = await enqueue(queue), await enqueue(queue)
    await redis.hset(keys.record(strange.id), "payload", payload)
    claimed = await claim(queue)
    assert ids(claimed) == [job.id]
    [hopeless] = claimed.hopeless
    assert hopeless.job_id == strange.id and reason in hopeless.reason


async def test_a_claim_tells_how_much_time_is_left(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    patient = await enqueue(queue)
    assert 86_000 < (await claim_one(queue)).time_left_s <= 86_400
    hurried = await enqueue(queue, make_job(deadline_s=100.0))
    assert 0 < (await claim_one(queue)).time_left_s <= 100
    await redis.hset(keys.record(hurried.id), "deadline_ms", 0)
    await redis.zadd(keys.queue, {hurried.id: LEASED})
    assert (await claim_one(queue)).time_left_s < 0
    assert await redis.pttl(keys.record(patient.id)) > 86_400_000  # its end can still be told


# -- renew ------------------------------------------------------------------------------------


async def test_renewing_keeps_other_workers_away(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    renewal = await queue.renew("w1", {job.id: claimed.fence}, lease_ms=LEASE_MS)
    assert (renewal.lost, renewal.cancelled) == ([], [])
    assert ids(await claim(queue, "w2")) == []


async def test_a_renewal_reports_what_another_worker_took(queue: JobQueue) -> None:
    mine, kept = await enqueue(queue), await enqueue(queue)
    first = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    second = await claim_one(queue, "w2")
    third = await claim_one(queue, "w1")
    assert (first.job.id, second.job.id, third.job.id) == (mine.id, mine.id, kept.id)
    fences = {mine.id: first.fence, kept.id: third.fence}
    assert (await queue.renew("w1", fences, lease_ms=LEASE_MS)).lost == [mine.id]


async def test_a_renewal_after_the_end_reports_the_job_lost(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await finish(queue, claimed)
    assert (await queue.renew("w1", {job.id: claimed.fence}, lease_ms=9)).lost == [job.id]
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_a_lease_that_redis_lost_is_taken_again(queue: JobQueue, redis: Redis) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await redis.flushall()
    renewal = await queue.renew("w1", {job.id: claimed.fence}, lease_ms=LEASE_MS)
    assert renewal.lost == []
    assert await queue.depth() == Depth(waiting=0, running=1)
    assert await finish(queue, claimed)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.SUCCEEDED


async def test_a_job_that_redis_lost_ends_also_when_its_worker_dies(
    queue: JobQueue, redis: Redis
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await redis.flushall()
    await queue.renew("w1", {job.id: claimed.fence}, lease_ms=EXPIRED_AT_ONCE_MS)
    [hopeless] = (await claim(queue, "w2")).hopeless
    assert (hopeless.job_id, hopeless.earlier_fence) == (job.id, claimed.fence)
    assert await queue.finish(hopeless, failed(job.id), fence=hopeless.fence)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.FAILED


async def test_a_renewal_brings_no_older_fence_back(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    second = await claim_one(queue, "w2")
    await queue.release("w2", {job.id: second.fence})
    assert (await queue.renew("w1", {job.id: frozen.fence}, lease_ms=0)).lost == [job.id]
    assert (await claim_one(queue, "w2")).earlier_fence == second.fence


async def test_a_worker_frozen_for_longer_than_the_result_lives_ends_nothing_twice(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue, make_job(ttl_s=1))
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    await finish(queue, await claim_one(queue, "w2"))
    await redis.delete(keys.arq_result(job.id))  # as its ttl does
    assert await redis.pttl(keys.record(job.id)) > 60_000
    assert await queue.record(job.id) is None
    assert (await queue.renew("w1", {job.id: frozen.fence}, lease_ms=9)).lost == [job.id]
    assert not await finish(queue, frozen)
    assert await redis.xlen(keys.replies("api-1")) == 1


async def test_an_old_lease_of_a_job_without_a_record_ends_nothing_twice(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    """Its worker was cut off until the record of the end by another had gone, too."""
    job = await enqueue(queue)
    claimed = await claim_one(queue, "w1")
    await redis.flushall()
    old = claimed.fence - 1000 * TOMBSTONE_S
    assert not await queue.begin("w1", job.id, fence=old, lease_ms=LEASE_MS)
    assert (await queue.renew("w1", {job.id: old}, lease_ms=LEASE_MS)).lost == [job.id]
    log = TokenLog(redis, keys)
    assert await log.append("w1", [(job.id, old, 0, [b"a"])]) == [None]
    assert not await queue.finish(claimed, make_finished(job.id), fence=old)
    assert await redis.keys() == []


# -- finish -----------------------------------------------------------------------------------


async def test_a_finished_job_shows_its_result(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    outcome = make_finished(job.id)
    assert await queue.finish(claimed, outcome, fence=claimed.fence)
    record = await queue.record(job.id)
    assert record is not None
    assert (record.status, record.attempts, record.worker) == (JobStatus.SUCCEEDED, 1, "w1")
    assert (record.result, record.batch, record.error) == (outcome.result, outcome.batch, None)
    assert record.finished_ms is not None
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_a_worker_that_lost_its_lease_writes_nothing(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    current = await claim_one(queue, "w2")
    assert not await finish(queue, frozen)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.RUNNING
    assert await finish(queue, current)


async def test_a_job_has_exactly_one_result(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    await enqueue(queue)
    claimed = await claim_one(queue)
    written = await asyncio.gather(*(finish(queue, claimed) for _ in range(3)))
    assert sorted(written) == [False, False, True]
    assert await redis.xlen(keys.replies("api-1")) == 1


async def test_finishing_leaves_nothing_but_the_record_and_the_result(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue, make_job(ttl_s=2000))
    await finish(queue, await claim_one(queue))
    await redis.delete(keys.wake, keys.totals, keys.job_index, keys.backlog, keys.replies("api-1"))
    left = {key.decode() for key in await redis.keys("*")}
    assert left == {keys.record(job.id), keys.arq_result(job.id)}
    assert await redis.hget(keys.record(job.id), "payload") is None
    for key in left:
        assert 0 < await redis.pttl(key) <= 2_000_000


async def test_every_watcher_gets_the_terminal_event(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    for replica in ("api-2", "api-1", "api-2"):
        record = await queue.watch(job.id, replica)
        assert record is not None and record.status is JobStatus.QUEUED
    await finish(queue, await claim_one(queue))
    for replica in ("api-1", "api-2"):
        [(_, fields)] = await redis.xrange(keys.replies(replica))
        assert decode_events(fields[b"events"]) == [make_finished(job.id)]


async def test_watching_a_job_that_ended_returns_its_result(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await finish(queue, await claim_one(queue))
    record = await queue.watch(job.id, "api-2")
    assert record is not None and record.result is not None


async def test_a_job_given_up_is_kept_as_a_dead_letter(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    outcome = failed(job.id)
    assert await queue.finish(claimed, outcome, fence=claimed.fence, is_dead_letter=True)
    assert await redis.lrange(keys.dead_letters, 0, -1) == [job.id.encode()]
    record = await queue.record(job.id)
    assert record is not None and (record.status, record.error) == (
        JobStatus.FAILED,
        outcome.error,
    )


async def test_an_unknown_job_has_no_record(queue: JobQueue) -> None:
    assert await queue.record("nobody") is None
    assert await queue.watch("nobody", "api-1") is None
    assert await queue.cancel("nobody") is None


# -- release ----------------------------------------------------------------------------------


async def test_a_released_job_waits_at_its_old_place_and_keeps_its_attempts(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await begin_run(redis, keys, job)
    record = await queue.record(job.id)
    assert record is not None and record.attempts == 1
    later = await enqueue(queue)
    await redis.delete(keys.wake)
    assert await queue.release("w1", {job.id: claimed.fence}) == 1
    record = await queue.record(job.id)
    assert record is not None
    assert (record.status, record.attempts, record.position) == (JobStatus.QUEUED, 0, 1)
    assert (record.worker, record.started_ms) == (None, None)
    assert await redis.llen(keys.wake) == 1
    assert ids(await claim(queue, "w2")) == [job.id, later.id]


async def test_a_renewal_that_comes_late_does_not_take_a_released_job_back(
    queue: JobQueue,
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await queue.release("w1", {job.id: claimed.fence})
    renewal = await queue.renew("w1", {job.id: claimed.fence}, lease_ms=LEASE_MS)
    assert renewal.lost == [job.id]
    assert not await finish(queue, claimed)
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_only_the_owner_can_release(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    await claim_one(queue, "w2")
    assert await queue.release("w1", {job.id: frozen.fence}) == 0
    assert await queue.depth() == Depth(waiting=0, running=1)


# -- cancel -----------------------------------------------------------------------------------


async def test_cancelling_a_waiting_job_ends_it_at_once(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    record = await queue.cancel(job.id)
    assert record is not None and record.error is not None
    assert (record.status, record.error.message) == (JobStatus.CANCELLED, "the job was cancelled")
    [(_, fields)] = await redis.xrange(keys.replies("api-1"))
    [event] = decode_events(fields[b"events"])
    assert isinstance(event, Failed) and event.status is JobStatus.CANCELLED
    assert ids(await claim(queue)) == []


async def test_cancelling_a_running_job_tells_its_worker(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    record = await queue.cancel(job.id)
    assert record is not None and record.status is JobStatus.RUNNING
    assert await redis.lrange(keys.control("w1"), 0, -1) == [job.id.encode()]
    renewal = await queue.renew("w1", {job.id: claimed.fence}, lease_ms=LEASE_MS)
    assert renewal.cancelled == [job.id]
    begun = await queue.begin("w1", job.id, fence=claimed.fence, lease_ms=LEASE_MS)
    assert begun is StartResult.CANCELLED


async def test_cancelling_a_job_whose_worker_died_ends_it_at_once(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue_deadly(queue, redis, keys, deaths=1)
    record = await queue.cancel(job.id)
    assert record is not None
    assert (record.status, record.attempts) == (JobStatus.CANCELLED, 1)
    assert await redis.xlen(keys.replies("api-1")) == 1
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_cancelling_a_job_that_ended_changes_nothing(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await finish(queue, await claim_one(queue))
    record = await queue.cancel(job.id)
    assert record is not None and record.status is JobStatus.SUCCEEDED


async def test_queues_with_other_names_do_not_meet(redis: Redis, queue: JobQueue) -> None:
    await enqueue(queue)
    other = JobQueue(redis, Keys('a "quoted" queue'))
    assert ids(await claim(other)) == []
    job = await enqueue(other)
    assert ids(await claim(other)) == [job.id]


def test_results_travel_as_plain_msgpack() -> None:
    finished = make_finished("id")
    assert isinstance(finished, Finished)
    assert deserialize(encode({"s": True, "r": finished}))["r"]["type"] == "finished"
