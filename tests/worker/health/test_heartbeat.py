"""What a heartbeat reports, and that heartbeats continue after an outage."""

import asyncio
from typing import Any, ClassVar

import pytest
from redis.exceptions import ConnectionError

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import ModelCard, WorkerInfo
from tests.factories import make_card, make_worker_info
from worker.engine_thread import EngineStats
from worker.health import heartbeat
from worker.health.heartbeat import SMOOTHING, Heartbeat, Rate

WAIT_S = 30.0


class FakeRegistry:
    """Answers reports in turn, the last answer repeatedly; raises exceptions."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.reports: list[WorkerInfo] = []
        self.published: list[tuple[ModelCard, bytes]] = []
        self.reported = asyncio.Semaphore(0)

    async def report(self, info: WorkerInfo) -> bool:
        self.reports.append(info)
        self.reported.release()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def publish_card(self, card: ModelCard, tokenizer_json: bytes) -> None:
        self.published.append((card, tokenizer_json))


class Counters:
    """What a heartbeat reads from worker, engine thread and adapters."""

    jobs_complete = 5
    is_enabled, generation = True, 4
    errors: ClassVar = {"ode": "no such folder"}
    stats = EngineStats(running=3, waiting=2, used_kv_tokens=40, num_tokens=100)


def beats(registry: Any) -> Heartbeat:
    counters: Any = Counters()
    made = Heartbeat(
        registry,
        make_worker_info("w1"),
        make_card(),
        b"{}",
        counters,
        counters,
        counters,
    )
    return made


async def test_a_beat_reports_identity_and_load() -> None:
    registry = FakeRegistry(True)
    await beats(registry).beat()
    [info] = registry.reports
    assert (info.id, info.running, info.waiting, info.kv_tokens_used) == ("w1", 3, 2, 40)
    assert info.tokens_per_s > info.jobs_per_s > 0
    assert registry.published == []


async def test_a_model_that_redis_lost_is_published_again() -> None:
    registry = FakeRegistry(False)
    await beats(registry).beat()
    assert registry.published == [(make_card(), b"{}")]


@pytest.mark.parametrize(
    ("interval_s", "num_beats"),
    [(0.001, 4), (600.0, 3)],  # after success, and soon after a failure
)
async def test_beats_continue_soon_after_an_outage(
    monkeypatch: pytest.MonkeyPatch, interval_s: float, num_beats: int
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", interval_s)
    registry = FakeRegistry(ConnectionError("gone"), OSError("refused"), True)
    running = asyncio.create_task(beats(registry).run())
    async with asyncio.timeout(WAIT_S):
        for _ in range(num_beats):
            await registry.reported.acquire()
    await cancel_all([running])


def test_a_rate_approaches_the_speed_of_its_counter() -> None:
    rate = Rate(measured=100.0)
    assert rate.update(10, 101.0) == pytest.approx(SMOOTHING * 10)
    for second in range(2, 60):
        rate.update(10 * second, 100.0 + second)
    assert rate.per_s == pytest.approx(10, rel=0.01)


def test_a_rate_falls_while_nothing_is_counted() -> None:
    rate = Rate(count=10, measured=1.0, per_s=8.0)
    assert rate.update(10, 2.0) == pytest.approx((1 - SMOOTHING) * 8)


def test_two_updates_at_one_instant_are_harmless() -> None:
    rate = Rate(count=10, measured=1.0, per_s=8.0)
    assert 0 <= rate.update(12, 1.0) <= 8
