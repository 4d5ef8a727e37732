"""What the line of waiting jobs promises: limits, the rate it drains at, deadlines."""

import pytest

from shared.errors import WaitTooLong
from shared.queue.claims import Room
from shared.queue.job_queue import Depth
from shared.queue.keys import JOB_KEPT_S
from tests.factories import make_finished, make_job, make_worker_info
from tests.shared.drained import TOKENS, Service, retry_after_for, with_backlog

WIDE = Room(rows=100, tokens=100_000, running=0)


# -- limits ----------------------------------------------------------------------------------


async def test_as_many_tokens_may_wait_as_the_limit_says(service: Service) -> None:
    for _ in range(3):
        await service.submit(max_tokens=3 * TOKENS)
    refusal = await service.refused(max_tokens=3 * TOKENS)
    assert "3 jobs are waiting for 30 tokens of KV cache" in refusal.message
    assert "more than 30" in refusal.message
    await service.take()
    await service.submit(max_tokens=3 * TOKENS)


async def test_a_job_larger_than_the_limit_may_wait_alone(service: Service) -> None:
    await service.submit(max_tokens=TOKENS - 1)
    await service.refused(max_tokens=TOKENS - 1)
    assert await service.tokens() == TOKENS


async def test_a_refused_job_leaves_nothing(service: Service) -> None:
    await service.submit()
    before = set(await service.redis.keys("*"))
    await service.refused(max_queued=1)
    assert set(await service.redis.keys("*")) == before


async def test_jobs_that_nobody_came_for_take_their_tokens_with_them(service: Service) -> None:
    lost = await service.submit()
    service.clock.now_s += JOB_KEPT_S + 1
    await service.redis.delete(service.keys.record(lost.job_id))  # as its ttl does
    await service.submit()
    await service.submit(max_queued=2)
    assert await service.tokens() == 2 * TOKENS
    assert await service.redis.zcard(service.keys.job_index) == 2


async def test_a_claimed_job_whose_record_is_gone_leaves_the_right_sum(service: Service) -> None:
    lost = await service.submit()
    for _ in range(2):
        await service.submit()
    await service.redis.delete(service.keys.record(lost.job_id))
    assert len(await service.take()) == 1
    assert await service.queue.depth() == Depth(waiting=1, running=1)  # the lost one is to be ended
    assert await service.tokens() == TOKENS


@pytest.mark.parametrize("returns", ["renew", "finish"])
async def test_a_claim_that_redis_forgot_leaves_the_right_sum(
    service: Service, returns: str
) -> None:
    job = await service.submit()
    before = {key: await service.redis.dump(key) for key in await service.redis.keys("*")}
    [claimed] = (await service.queue.claim("w1", WIDE, lease_ms=60_000)).jobs
    await service.redis.flushall()
    for key, value in before.items():
        await service.redis.restore(key, 0, value)
    assert (await service.queue.depth(), await service.tokens()) == (Depth(1, 0), TOKENS)
    if returns == "renew":
        fences = {job.job_id: claimed.fence}
        await service.queue.renew("w1", fences, lease_ms=60_000)
    else:
        await service.queue.finish(claimed, make_finished(job.job_id), fence=claimed.fence)
    assert ((await service.queue.depth()).waiting, await service.tokens()) == (0, 0)


# -- the rate --------------------------------------------------------------------------------


@pytest.mark.parametrize(("every_s", "rows"), [(0.05, 1), (2.0, 1), (30.0, 1), (4.0, 8)])
async def test_the_expected_start_follows_the_measured_rate(
    service: Service, every_s: float, rows: int
) -> None:
    await with_backlog(service, waiting=40, every_s=every_s, rows=rows)
    start_s = (await service.submit()).outlook.expected_start_s
    assert start_s == pytest.approx(40 * every_s / rows, rel=0.05)


async def test_the_rate_follows_a_change_within_some_time_constants(service: Service) -> None:
    await with_backlog(service, waiting=400, every_s=0.1)
    await service.drain(60, every_s=0.5)
    waiting = (await service.queue.depth()).waiting
    start_s = (await service.submit()).outlook.expected_start_s
    assert start_s == pytest.approx(waiting * 0.5, rel=0.25)


async def test_idle_time_says_nothing_of_what_workers_can_do(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=1.0)
    await service.drain(20, every_s=1.0)
    for _ in range(5):
        service.clock.now_s += 20.0
        await service.submit()
        await service.take(2)  # at once, and with room left
    for _ in range(11):
        await service.submit()
    await service.take()
    start_s = (await service.submit()).outlook.expected_start_s
    assert start_s == pytest.approx(10 * 1.0, rel=0.05)


async def test_what_idle_workers_take_of_a_burst_is_no_rate(service: Service) -> None:
    await service.registry.report(make_worker_info("w2"))
    for _ in range(100):
        await service.submit()
    assert [len(await service.take(rows)) for rows in (32, 40, 6)] == [32, 34, 6]  # 34: the share
    assert (await service.submit()).outlook.expected_start_s is None
    await service.drain(2, every_s=1.0)
    assert (await service.submit()).outlook.expected_start_s == pytest.approx(27, rel=0.05)


async def test_a_job_that_comes_to_an_empty_line_expects_nothing(service: Service) -> None:
    await with_backlog(service, waiting=1, every_s=1.0)
    await service.drain(1, every_s=1.0)
    assert (await service.submit()).outlook.expected_start_s is None


async def test_an_old_rate_is_forgotten(service: Service) -> None:
    await with_backlog(service, waiting=1, every_s=0.1)
    await service.take()
    service.clock.now_s += 3600
    for _ in range(3):
        await service.submit()
    await service.take()
    assert (await service.submit()).outlook.expected_start_s is None


async def test_while_a_backlog_stands_still_the_rate_sinks(service: Service) -> None:
    await with_backlog(service, waiting=10, every_s=0.1)
    starts = []
    for pause_s in (0, 1, 10, 100):
        service.clock.now_s += pause_s
        await service.registry.report(make_worker_info("w1"))
        starts.append((await service.submit()).outlook.expected_start_s or 0.0)
    assert starts == sorted(starts)
    assert starts[-1] > 50 * starts[0]


async def test_without_a_live_worker_nobody_knows_when_a_job_starts(service: Service) -> None:
    await with_backlog(service, waiting=10, every_s=0.1)
    assert (await service.submit()).outlook.has_worker
    service.clock.now_s += 60
    enqueued = await service.submit()
    assert not enqueued.outlook.has_worker
    assert enqueued.outlook.expected_start_s is None
    record = await service.queue.record(enqueued.job_id)
    assert record is not None and record.lacks_worker


# -- deadlines -------------------------------------------------------------------------------


async def test_a_deadline_that_would_pass_first_is_refused_with_the_estimate(
    service: Service,
) -> None:
    await with_backlog(service, waiting=30, every_s=1.0)
    with pytest.raises(WaitTooLong, match=r"wait for about 3\d s: 30 jobs are waiting") as caught:
        await service.submit(deadline_s=10.0)
    assert caught.value.retry_after_s == retry_after_for(20.0)
    assert (await service.queue.depth()).waiting == 30
    await service.submit(deadline_s=60.0)


async def test_only_what_goes_before_a_job_counts_for_its_deadline(service: Service) -> None:
    await with_backlog(service, waiting=30, every_s=1.0)
    urgent = make_job(deadline_s=10.0)
    enqueued = await service.queue.enqueue(urgent, reply_to=None, priority=10, max_queued=1000)
    assert enqueued.outlook.position == 1


async def test_a_deadline_is_accepted_while_nobody_knows_the_wait(service: Service) -> None:
    for _ in range(30):
        await service.submit()
    await service.submit(deadline_s=0.001)
