"""Retry-After: when a refused client should retry, and how many retries on time succeed."""

import heapq
from dataclasses import dataclass, field

import pytest

from shared.errors import QueueFull
from shared.queue.keys import UNKNOWN_RETRY_AFTER_S
from tests.shared.queue.harness import TOKENS, QueueHarness, retry_after_for, with_backlog


async def test_without_a_measured_rate_retry_after_is_a_constant(harness: QueueHarness) -> None:
    await harness.submit()
    assert (await harness.refused(max_queued=1)).retry_after_s == UNKNOWN_RETRY_AFTER_S


async def test_retries_are_spread_at_the_claim_rate(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=20, every_s=3.0)
    retries = [(await harness.refused(max_queued=20)).retry_after_s for _ in range(5)]
    assert retries == [retry_after_for(3.0 * number) for number in (1, 2, 3, 4, 5)]


async def test_retries_on_time_are_accepted_without_new_requests(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=20, every_s=2.0)
    start_s = harness.clock.now_s
    retries = [(await harness.refused(max_queued=20)).retry_after_s for _ in range(10)]
    for retry_after_s in retries:
        while harness.clock.now_s < start_s + retry_after_s:
            await harness.take_repeatedly(1, every_s=2.0)
        await harness.submit(max_queued=20)


async def test_retry_after_is_at_most_ten_minutes(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=10, every_s=60.0)
    retries = [(await harness.refused(max_queued=10)).retry_after_s for _ in range(20)]
    assert retries == sorted(retries)
    assert retries[-1] == 600


async def test_an_empty_backlog_resets_the_spreading_of_retries(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=10, every_s=2.0)
    for _ in range(50):
        await harness.refused(max_queued=10)
    await harness.take_repeatedly(10, every_s=2.0)  # no client retried
    for _ in range(11):
        await harness.submit()
    await harness.take()
    assert (await harness.refused(max_queued=10)).retry_after_s == retry_after_for(2.0)


async def test_retry_after_of_a_fast_queue_has_a_second_of_margin(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=100, every_s=0.01)
    assert (await harness.refused(max_queued=100)).retry_after_s == 2


async def test_overdue_retries_do_not_delay_later_retries(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=30, every_s=2.0)
    for _ in range(5):
        await harness.refused(max_queued=30)
    await harness.take_repeatedly(10, every_s=2.0)
    assert (await harness.refused(max_queued=20)).retry_after_s == retry_after_for(2.0)


async def test_more_tokens_mean_a_longer_retry_after(harness: QueueHarness) -> None:
    await with_backlog(harness, waiting=20, every_s=1.0)
    with pytest.raises(QueueFull) as caught:
        await harness.submit(max_tokens=20 * TOKENS, max_new_tokens=46)  # 50 tokens
    assert caught.value.retry_after_s == retry_after_for(5.0)


# -- ten times the capacity -------------------------------------------------------------------

MAX_WAITING = 10
PATIENCE_S = 60.0
JOB_S = 0.5
OVERLOAD_S = 20.0


@dataclass
class Clients:
    """Clients that send one request each and retry exactly after Retry-After, for a minute."""

    harness: QueueHarness
    due: list[tuple[float, int]]  # when a client sends its request next, its number
    refusals: dict[int, list[tuple[float, int]]] = field(default_factory=dict)  # when, Retry-After
    wait_ratios: list[float] = field(default_factory=list)  # actual wait to Retry-After

    async def send_until(self, until_s: float) -> None:
        while self.due and self.due[0][0] <= until_s:
            now_s, client = heapq.heappop(self.due)
            self.harness.clock.now_s = max(self.harness.clock.now_s, now_s)
            await self._send(now_s, client)

    async def _send(self, now_s: float, client: int) -> None:
        refusals = self.refusals.setdefault(client, [])
        try:
            await self.harness.submit(max_queued=MAX_WAITING)
        except QueueFull as refusal:
            refusals.append((now_s, refusal.retry_after_s))
            retry_s = now_s + refusal.retry_after_s
            if retry_s < refusals[0][0] + PATIENCE_S:
                heapq.heappush(self.due, (retry_s, client))
        else:
            self.wait_ratios += [(now_s - at_s) / wait_s for at_s, wait_s in refusals]


async def test_retry_after_is_close_to_the_actual_wait(harness: QueueHarness) -> None:
    """Requests come at ten times the capacity; meanwhile the worker never runs out of jobs."""
    await with_backlog(harness, waiting=MAX_WAITING, every_s=JOB_S)
    began_s = harness.clock.now_s
    requests = [(began_s + number * JOB_S / 10, number) for number in range(400)]
    clients = Clients(harness, requests)
    while clients.due:
        next_s = harness.clock.now_s + JOB_S
        await clients.send_until(next_s)
        harness.clock.now_s = max(harness.clock.now_s, next_s)
        assert await harness.take() or harness.clock.now_s > began_s + OVERLOAD_S
    within = [ratio for ratio in clients.wait_ratios if 0.5 <= ratio <= 2]
    assert len(within) >= 0.9 * len(clients.wait_ratios) > 20
