"""When refused callers are told to come back, and the places of those who do."""

import heapq
from dataclasses import dataclass, field

import pytest

from shared.errors import QueueFull, WaitTooLong
from shared.queue.keys import UNKNOWN_RETRY_AFTER_S, WORKER_TTL_S
from tests.shared.drained import TOKENS, Service, told_for, with_backlog


async def test_without_a_rate_callers_come_back_after_a_fixed_time(service: Service) -> None:
    await service.submit()
    assert (await service.refused(max_queued=1)).retry_after_s == UNKNOWN_RETRY_AFTER_S


async def test_refused_callers_are_told_one_place_after_the_other(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=3.0)
    told = [(await service.refused(max_queued=20)).retry_after_s for _ in range(5)]
    assert told == [told_for(3.0 * place) for place in (1, 2, 3, 4, 5)]


async def test_those_who_come_back_when_told_are_let_in(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=2.0)
    start_s = service.clock.now_s
    told = [(await service.refused(max_queued=20)).retry_after_s for _ in range(10)]
    for retry_after_s in told:
        while service.clock.now_s < start_s + retry_after_s:
            await service.drain(1, every_s=2.0)
        await service.submit(max_queued=20)


async def test_a_caller_is_told_to_wait_for_ten_minutes_at_most(service: Service) -> None:
    await with_backlog(service, waiting=10, every_s=60.0)
    told = [(await service.refused(max_queued=10)).retry_after_s for _ in range(20)]
    assert told == sorted(told)
    assert told[-1] == 600


async def test_an_empty_line_has_no_promises_to_keep(service: Service) -> None:
    await with_backlog(service, waiting=10, every_s=2.0)
    for _ in range(50):
        await service.refused(max_queued=10)
    await service.drain(10, every_s=2.0)  # nobody came back
    for _ in range(11):
        await service.submit()
    await service.take()
    assert (await service.refused(max_queued=10)).retry_after_s == told_for(2.0)


async def test_callers_of_a_fast_queue_have_a_second_to_spare(service: Service) -> None:
    await with_backlog(service, waiting=100, every_s=0.01)
    assert (await service.refused(max_queued=100)).retry_after_s == 2


async def test_places_that_have_passed_are_nobodys(service: Service) -> None:
    await with_backlog(service, waiting=30, every_s=2.0)
    for _ in range(5):
        await service.refused(max_queued=30)
    await service.drain(10, every_s=2.0)
    assert (await service.refused(max_queued=20)).retry_after_s == told_for(2.0)


async def test_more_tokens_take_longer_to_get_in(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=1.0)
    with pytest.raises(QueueFull) as caught:
        await service.submit(max_tokens=20 * TOKENS, max_new_tokens=46)  # 50 tokens
    assert caught.value.retry_after_s == told_for(5.0)


# -- places ----------------------------------------------------------------------------------


async def full_line_with(service: Service, *callers: str, every_s: float = 2.0) -> list[int]:
    """Twenty wait, of whom one leaves every so often; what these callers were told."""
    await with_backlog(service, waiting=20, every_s=every_s)
    return [
        (await service.refused(max_queued=20, caller=caller)).retry_after_s for caller in callers
    ]


async def test_who_comes_back_when_told_goes_before_newcomers(service: Service) -> None:
    await full_line_with(service, "first")
    await service.drain(1, every_s=2.0)
    newcomer = await service.refused(max_queued=20, caller="newcomer")
    assert "19 jobs are waiting and room for 1 is kept for" in newcomer.message
    await service.submit(max_queued=20, caller="first")
    assert (await service.queue.depth()).waiting == 20


async def test_an_idempotency_key_tells_callers_of_the_same_apart(service: Service) -> None:
    await full_line_with(service)
    await service.refused(max_queued=20, caller="same", key="first")
    await service.drain(1, every_s=2.0)
    await service.refused(max_queued=20, caller="same", key="second")
    await service.submit(max_queued=20, caller="same", key="first")


async def test_a_retried_job_keeps_its_place(service: Service) -> None:
    cancelled = await service.submit()
    await service.queue.cancel(cancelled.job_id)
    await full_line_with(service)
    with pytest.raises(QueueFull):
        await service.queue.retry(cancelled.job_id, max_queued=20)
    await service.drain(1, every_s=2.0)
    await service.refused(max_queued=20, caller="newcomer")
    assert await service.queue.retry(cancelled.job_id, max_queued=20)


async def test_a_place_is_given_up_when_its_holder_is_late(service: Service) -> None:
    await full_line_with(service, "first")
    await service.drain(1, every_s=2.0)
    await service.refused(max_queued=20, caller="newcomer")
    await service.drain(5, every_s=2.0)
    for _ in range(6):
        await service.submit(max_queued=20, caller="another newcomer")
    await service.refused(max_queued=20, caller="first")


async def test_a_holder_whom_a_slow_line_cannot_let_in_stays_first(service: Service) -> None:
    told = await full_line_with(service, "first", "second", "third", every_s=1.0)
    service.clock.now_s += max(told)  # nobody left meanwhile
    await service.take(0)  # the worker lives
    again = [
        (await service.refused(max_queued=20, caller=caller)).retry_after_s
        for caller in ("first", "second", "third")
    ]
    assert again == sorted(set(again))
    await service.drain(1, every_s=1.0)
    for caller in ("third", "second", "newcomer"):
        await service.refused(max_queued=20, caller=caller)
    await service.submit(max_queued=20, caller="first")


async def test_half_of_the_line_is_open_to_newcomers_if_nobody_comes_back(
    service: Service,
) -> None:
    await with_backlog(service, waiting=20, every_s=0.1)
    for number in range(20):
        await service.refused(max_queued=20, caller=f"{number}")
    await service.drain(19, every_s=0.1)
    for _ in range(9):
        await service.submit(max_queued=20, caller="newcomer")
    refusal = await service.refused(max_queued=20, caller="newcomer")
    assert "10 jobs are waiting and room for 10 is kept for" in refusal.message


async def test_places_for_tokens_are_kept_as_those_for_jobs(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=2.0)
    await service.refused(max_tokens=20 * TOKENS, caller="first")
    await service.drain(1, every_s=2.0)
    newcomer = await service.refused(max_tokens=20 * TOKENS, caller="newcomer")
    assert "and room for 1 is kept for" in newcomer.message
    await service.submit(max_tokens=20 * TOKENS, caller="first")


async def test_places_leave_nothing_behind(service: Service) -> None:
    await full_line_with(service, "first", "second")
    for key in (service.keys.places, service.keys.places_end):
        assert await service.redis.zcard(key) == 2
        assert 0 < await service.redis.ttl(key) <= 1200
    await service.drain(19, every_s=2.0)
    await service.submit()
    assert not await service.redis.exists(service.keys.places, service.keys.places_end)


async def test_who_comes_too_early_under_a_key_is_told_what_is_left(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=10.0)
    told = []
    for _ in range(5):
        told.append((await service.refused(max_queued=20, key="impatient")).retry_after_s)
        service.clock.now_s += 1.0
    assert told == [14, 13, 12, 11, 10]  # 1.2 * 10 + 1, and a little
    assert await service.redis.zcard(service.keys.places) == 1


async def test_who_comes_early_and_finds_room_is_let_in(service: Service) -> None:
    await full_line_with(service, "first", "second")
    await service.drain(1, every_s=0.5)
    await service.refused(max_queued=20, caller="second")
    await service.submit(max_queued=20, caller="first")


async def test_a_deadline_that_would_pass_keeps_no_place(service: Service) -> None:
    await with_backlog(service, waiting=20, every_s=1.0)
    for number in range(20):
        with pytest.raises(WaitTooLong):
            await service.submit(max_queued=30, caller=f"{number}", deadline_s=5.0)
    for _ in range(10):
        await service.submit(max_queued=30, caller="newcomer")


async def test_places_outlast_a_time_without_workers(service: Service) -> None:
    [told_s] = await full_line_with(service, "first", every_s=10.0)
    assert told_s > WORKER_TTL_S
    service.clock.now_s += told_s
    alone = await service.refused(max_queued=20, caller="first")
    assert alone.retry_after_s == UNKNOWN_RETRY_AFTER_S
    service.clock.now_s += UNKNOWN_RETRY_AFTER_S
    await service.take(1)
    await service.refused(max_queued=20, caller="newcomer")
    await service.submit(max_queued=20, caller="first")


async def test_who_is_let_in_while_nothing_stands_leaves_its_place(service: Service) -> None:
    await full_line_with(service, "first")
    await service.take(20)
    await service.submit(max_queued=20, caller="first")
    assert await service.redis.zcard(service.keys.places) == 0


async def test_places_are_given_out_again_when_the_line_of_callers_got_shorter(
    service: Service,
) -> None:
    """However long the overload lasts, and how many were told the longest time."""
    await with_backlog(service, waiting=20, every_s=30.0)
    for number in range(100):
        last = await service.refused(max_queued=20, caller=f"{number}")
    assert last.retry_after_s == 600
    await service.drain(4, every_s=30.0)
    assert (await service.refused(max_queued=16, caller="newcomer")).retry_after_s < 600


@pytest.mark.parametrize("max_queued", [1, 2])
async def test_a_very_short_line_stays_open(service: Service, max_queued: int) -> None:
    await with_backlog(service, waiting=max_queued, every_s=1.0)
    for number in range(20):
        await service.refused(max_queued=max_queued, caller=f"{number}")
    await service.drain(max_queued, every_s=1.0)
    await service.submit(max_queued=max_queued, caller="newcomer")


# -- many polite callers ---------------------------------------------------------------------

MAX_WAITING = 10


@dataclass
class Crowd:
    """Callers of whom each comes when its time has come, and back when told, for a minute."""

    service: Service
    due: list[tuple[float, int]]  # when, who
    refused: dict[int, list[tuple[float, int]]] = field(default_factory=dict)  # who: when, told
    returns: int = 0
    let_in_on_return: int = 0
    half_give_up: bool = False
    ratios: list[float] = field(default_factory=list)  # of what was needed to what was told

    async def come_until(self, until_s: float) -> None:
        while self.due and self.due[0][0] <= until_s:
            now_s, caller = heapq.heappop(self.due)
            self.service.clock.now_s = max(self.service.clock.now_s, now_s)
            await self._come(now_s, caller)

    async def _come(self, now_s: float, caller: int) -> None:
        told = self.refused.setdefault(caller, [])
        self.returns += bool(told)
        try:
            await self.service.submit(max_queued=MAX_WAITING, caller=f"{caller}")
        except QueueFull as refusal:
            told.append((now_s, refusal.retry_after_s))
            gives_up = self.half_give_up and caller % 2
            if not gives_up and now_s + refusal.retry_after_s < told[0][0] + 60:
                heapq.heappush(self.due, (now_s + refusal.retry_after_s, caller))
        else:
            self.let_in_on_return += bool(told)
            self.ratios += [(now_s - at) / told_s for at, told_s in told]


@pytest.mark.parametrize(("slows_to_s", "half_give_up"), [(0.5, False), (0.7, False), (0.5, True)])
async def test_under_ten_times_the_load_all_are_told_the_time_that_they_need(
    service: Service, slows_to_s: float, half_give_up: bool
) -> None:
    """Two jobs leave each second when the load begins, and later perhaps fewer."""
    await with_backlog(service, waiting=MAX_WAITING, every_s=0.5)
    began_s = service.clock.now_s
    arrivals = [(began_s + number / 20, number) for number in range(20 * 20)]
    crowd = Crowd(service, arrivals, half_give_up=half_give_up)
    while crowd.due:
        every_s = 0.5 if service.clock.now_s < began_s + 5 else slows_to_s
        next_s = service.clock.now_s + every_s
        await crowd.come_until(next_s)
        service.clock.now_s = max(service.clock.now_s, next_s)
        assert await service.take() or service.clock.now_s > began_s + 20, "a worker ran dry"
    assert crowd.returns > 20
    assert all(0.5 <= ratio <= 2 for ratio in crowd.ratios), sorted(crowd.ratios)
    if slows_to_s == 0.5:
        assert crowd.let_in_on_return == crowd.returns
