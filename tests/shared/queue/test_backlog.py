"""The backlog: its limits, its claim rate, expected starts and deadlines."""

import pytest

from shared.errors import WaitTooLong
from shared.queue.backlog import Depth, JobEstimate
from shared.queue.claims import FreeCapacity
from shared.queue.keys import UNFINISHED_JOB_TTL_S
from tests.factories import make_job, make_succeeded, make_worker_info
from tests.shared.queue.harness import (
    MAX_QUEUED,
    TOKENS,
    QueueHarness,
    retry_after_for,
    with_backlog,
)

WIDE = FreeCapacity(rows=100, kv_tokens=100_000, running=0)


# -- limits -----------------------------------------------------------------------------------


async def test_the_limit_bounds_the_tokens_of_waiting_jobs(harness: QueueHarness) -> None:
    for _ in range(3):
        await harness.submit(max_tokens=3 * TOKENS)
    refusal = await harness.refused(max_tokens=3 * TOKENS)
    assert "3 jobs are waiting for 30 tokens of KV cache" in refusal.message
    assert "more than 30" in refusal.message
    await harness.take()
    await harness.submit(max_tokens=3 * TOKENS)


async def test_a_job_larger_than_the_limit_may_wait_alone(harness: QueueHarness) -> None:
    await harness.submit(max_tokens=TOKENS - 1)
    await harness.refused(max_tokens=TOKENS - 1)
    assert await harness.tokens() == TOKENS


async def test_a_refused_job_writes_nothing(harness: QueueHarness) -> None:
    await harness.submit()
    before = set(await harness.redis.keys("*"))
    await harness.refused(max_queued=1)
    assert set(await harness.redis.keys("*")) == before


async def test_expired_records_subtract_their_tokens(harness: QueueHarness) -> None:
    lost = await harness.submit()
    harness.clock.now_s += UNFINISHED_JOB_TTL_S + 1
    await harness.redis.delete(harness.keys.record(lost.job_id))  # as its ttl does
    await harness.submit()
    await harness.submit(max_queued=2)
    assert await harness.tokens() == 2 * TOKENS
    assert await harness.redis.zcard(harness.keys.job_index) == 2


async def test_the_sum_of_tokens_is_exact_after_a_claim_of_an_expired_record(
    harness: QueueHarness,
) -> None:
    lost = await harness.submit()
    for _ in range(2):
        await harness.submit()
    await harness.redis.delete(harness.keys.record(lost.job_id))
    assert len(await harness.take()) == 1
    assert await harness.queue.depth() == Depth(
        waiting=1, running=1
    )  # the worker ends the lost job
    assert await harness.tokens() == TOKENS


@pytest.mark.parametrize("returns", ["renew", "finish"])
async def test_the_sum_of_tokens_is_exact_after_redis_lost_a_claim(
    harness: QueueHarness, returns: str
) -> None:
    job = await harness.submit()
    before = {key: await harness.redis.dump(key) for key in await harness.redis.keys("*")}
    [claimed] = (await harness.queue.claim("w1", WIDE, lease_ms=60_000)).jobs
    await harness.redis.flushall()
    for key, value in before.items():
        await harness.redis.restore(key, 0, value)
    assert (await harness.queue.depth(), await harness.tokens()) == (Depth(1, 0), TOKENS)
    if returns == "renew":
        fencing_tokens = {job.job_id: claimed.fencing_token}
        await harness.queue.renew("w1", fencing_tokens, lease_ms=60_000)
    else:
        await harness.queue.finish(
            claimed, make_succeeded(job.job_id), fencing_token=claimed.fencing_token
        )
    assert ((await harness.queue.depth()).waiting, await harness.tokens()) == (0, 0)


# -- claim rate -------------------------------------------------------------------------------


@pytest.mark.parametrize(("every_s", "rows"), [(0.05, 1), (2.0, 1), (30.0, 1), (4.0, 8)])
async def test_the_expected_start_follows_the_measured_rate(
    harness: QueueHarness, every_s: float, rows: int
) -> None:
    await with_backlog(harness, waiting=40, every_s=every_s, rows=rows)
    start_s = (await harness.submit()).estimate.expected_start_s
    assert start_s == pytest.approx(40 * every_s / rows, rel=0.05)


async def test_the_claim_rate_follows_a_change(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=400, every_s=0.1)
    await harness.take_repeatedly(60, every_s=0.5)
    waiting = (await harness.queue.depth()).waiting
    start_s = (await harness.submit()).estimate.expected_start_s
    assert start_s == pytest.approx(waiting * 0.5, rel=0.25)


async def test_idle_time_does_not_change_the_claim_rate(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=20, every_s=1.0)
    await harness.take_repeatedly(20, every_s=1.0)
    for _ in range(5):
        harness.clock.now_s += 20.0
        await harness.submit()
        await harness.take(2)  # at once, with capacity left
    for _ in range(11):
        await harness.submit()
    await harness.take()
    start_s = (await harness.submit()).estimate.expected_start_s
    assert start_s == pytest.approx(10 * 1.0, rel=0.05)


async def test_a_burst_to_idle_workers_does_not_change_the_claim_rate(
    harness: QueueHarness,
) -> None:
    await harness.registry.report(make_worker_info("w2"))
    for _ in range(100):
        await harness.submit()
    assert [len(await harness.take(rows)) for rows in (32, 40, 6)] == [
        32,
        34,
        6,
    ]  # 34: its fair share
    assert (await harness.submit()).estimate.expected_start_s is None
    await harness.take_repeatedly(2, every_s=1.0)
    assert (await harness.submit()).estimate.expected_start_s == pytest.approx(27, rel=0.05)


async def test_the_first_job_of_an_empty_backlog_has_no_expected_start(
    harness: QueueHarness,
) -> None:
    await with_backlog(harness, waiting=1, every_s=1.0)
    await harness.take_repeatedly(1, every_s=1.0)
    assert (await harness.submit()).estimate.expected_start_s is None


async def test_an_old_claim_rate_expires(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=1, every_s=0.1)
    await harness.take()
    harness.clock.now_s += 3600
    for _ in range(3):
        await harness.submit()
    await harness.take()
    assert (await harness.submit()).estimate.expected_start_s is None


async def test_the_claim_rate_sinks_while_no_job_leaves(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=10, every_s=0.1)
    starts = []
    for pause_s in (0, 1, 10, 100):
        harness.clock.now_s += pause_s
        await harness.registry.report(make_worker_info("w1"))
        starts.append((await harness.submit()).estimate.expected_start_s or 0.0)
    assert starts == sorted(starts)
    assert starts[-1] > 50 * starts[0]


async def test_without_a_live_worker_there_is_no_expected_start(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=10, every_s=0.1)
    assert (await harness.submit()).estimate.has_worker
    harness.clock.now_s += 60
    enqueued = await harness.submit()
    assert not enqueued.estimate.has_worker
    assert enqueued.estimate.expected_start_s is None
    record = await harness.queue.record(enqueued.job_id)
    assert record is not None and record.lacks_worker


# -- deadlines --------------------------------------------------------------------------------


async def test_a_deadline_before_the_expected_start_is_refused_with_the_estimate(
    harness: QueueHarness,
) -> None:
    await with_backlog(harness, waiting=30, every_s=1.0)
    with pytest.raises(WaitTooLong, match=r"wait for about 3\d s: 30 jobs are waiting") as caught:
        await harness.submit(deadline_s=10.0)
    assert caught.value.retry_after_s == retry_after_for(20.0)
    assert (await harness.queue.depth()).waiting == 30
    await harness.submit(deadline_s=60.0)


async def test_only_jobs_ahead_of_a_job_count_for_its_deadline(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=30, every_s=1.0)
    urgent = make_job(deadline_s=10.0)
    enqueued = await harness.queue.enqueue(urgent, reply_to=None, priority=10, max_queued=1000)
    assert enqueued.estimate.position == 1


async def test_every_deadline_is_accepted_without_a_claim_rate(harness: QueueHarness) -> None:
    for _ in range(30):
        await harness.submit()
    await harness.submit(deadline_s=0.001)


# -- estimates --------------------------------------------------------------------------------


async def estimated(
    harness: QueueHarness, *, max_queued: int = MAX_QUEUED, **job: object
) -> JobEstimate:
    return await harness.queue.estimate(make_job(**job), max_queued=max_queued)


async def test_an_estimate_is_what_an_enqueue_returns(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=20, every_s=3.0)
    estimate = await estimated(harness)
    assert estimate.refusal is None
    assert estimate.queue == (await harness.submit()).estimate
    assert estimate.queue.expected_start_s == pytest.approx(60.0, rel=0.1)


async def test_an_estimate_has_the_place_of_its_priority(harness: QueueHarness) -> None:
    for _ in range(3):
        await harness.submit()
    assert (await estimated(harness, priority=1)).queue.position == 1
    assert (await estimated(harness, priority=-1)).queue.position == 4


async def test_an_estimate_has_the_error_of_an_enqueue_and_takes_no_retry_slot(
    harness: QueueHarness,
) -> None:
    await with_backlog(harness, waiting=20, every_s=3.0)
    estimates = [await estimated(harness, max_queued=20) for _ in range(3)]
    refused = await harness.refused(max_queued=20)
    for estimate in estimates:
        assert estimate.refusal is not None
        assert estimate.refusal.message == refused.message
        assert estimate.refusal.retry_after_s == refused.retry_after_s == retry_after_for(3.0)


async def test_an_estimate_changes_nothing(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=20, every_s=3.0)

    async def content() -> dict[bytes, bytes]:
        return {key: await harness.redis.dump(key) for key in await harness.redis.keys("*")}

    before = await content()
    await estimated(harness)
    await estimated(harness, max_queued=20)
    assert await content() == before


async def test_the_expected_run_follows_from_the_running_jobs_and_the_claim_rate(
    harness: QueueHarness,
) -> None:
    """Four rows take four jobs every two seconds, so a job of usual size runs for two seconds."""
    await with_backlog(harness, waiting=20, every_s=2.0, rows=4)
    harness.clock.now_s += 2.0
    free = FreeCapacity(rows=4, kv_tokens=4 * TOKENS, running=1)
    assert len((await harness.queue.claim("w1", free, lease_ms=60_000)).jobs) == 4
    assert (await estimated(harness)).expected_run_s == pytest.approx(2.0, rel=0.1)
    larger = await estimated(harness, max_new_tokens=46)  # 50 tokens
    assert larger.expected_run_s == pytest.approx(10.0, rel=0.1)


async def test_without_a_claim_rate_an_estimate_has_no_times(harness: QueueHarness) -> None:
    estimate = await estimated(harness)
    assert (estimate.queue.position, estimate.queue.expected_start_s) == (1, None)
    assert estimate.expected_run_s is None
