"""Leases are renewed while the engine makes progress, and only then."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.process.asyncio_tasks import cancel_all
from shared.queue.claims import Renewal
from tests.worker.fake_engine import FakeEngine
from worker.engine import Request, SamplingParams
from worker.engine_thread import EngineThread
from worker.generation import Generation
from worker.jobs.redis_loops import EngineStuck, LeaseRenewer

WAIT_S = 30.0


class Active:
    fencing_token = 3


class FakeWorker:
    """Runs one job and records what a renewal reports."""

    worker_id = "w1"

    def __init__(self) -> None:
        self.active = {"a": Active()}
        self.renewal_due = asyncio.Event()
        self.calls: list[tuple[str, ...]] = []

    def cancel(self, job_id: str) -> None:
        self.calls.append(("cancel", job_id))

    def lose_lease(self, job_id: str, fencing_token: int) -> None:
        self.calls.append(("revoke", job_id, str(fencing_token)))


class FakeQueue:
    """Answers renewals in turn, the last answer repeatedly; raises exceptions."""

    def __init__(self, *answers: Renewal | Exception) -> None:
        self.answers = list(answers)
        self.renewed = asyncio.Semaphore(0)

    async def renew(
        self, worker_id: str, fencing_tokens: dict[str, int], *, lease_ms: int
    ) -> Renewal:
        assert (worker_id, fencing_tokens) == ("w1", {"a": 3})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.renewed.release()
        return answer


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.gate.set()


@pytest.fixture
async def engine_thread(engine: FakeEngine) -> AsyncIterator[EngineThread]:
    engine_thread = EngineThread(engine)
    engine_thread.start()
    yield engine_thread
    engine.gate.set()
    engine_thread.stop()


def renewer(
    worker: Any, queue: Any, engine_thread: EngineThread, lease_ms: int = 30
) -> LeaseRenewer:
    made: LeaseRenewer = LeaseRenewer(
        worker,
        queue,
        engine_thread,
        lease_ms=lease_ms,
        step_timeout_s=0.05,
    )
    return made


async def renewals(queue: FakeQueue, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        for _ in range(count):
            await queue.renewed.acquire()


async def test_leases_are_renewed_while_the_engine_is_idle(engine_thread: EngineThread) -> None:
    queue = FakeQueue(Renewal([], []))
    running = asyncio.create_task(renewer(FakeWorker(), queue, engine_thread).run())
    await renewals(queue, 3)
    await cancel_all([running])


async def test_leases_are_renewed_at_once_if_the_worker_asks(
    engine_thread: EngineThread,
) -> None:
    worker, queue = FakeWorker(), FakeQueue(Renewal([], []))
    running = asyncio.create_task(renewer(worker, queue, engine_thread, lease_ms=3_600_000).run())
    await renewals(queue, 1)
    for _ in range(2):
        worker.renewal_due.set()
        await renewals(queue, 1)
    await cancel_all([running])


async def test_a_renewal_cancels_and_revokes_jobs(engine_thread: EngineThread) -> None:
    worker, queue = FakeWorker(), FakeQueue(Renewal(["a"], ["a"]), Renewal([], []))
    running = asyncio.create_task(renewer(worker, queue, engine_thread).run())
    await renewals(queue, 2)
    await cancel_all([running])
    assert worker.calls == [("cancel", "a"), ("revoke", "a", "3")]


async def test_renewals_continue_after_an_outage(engine_thread: EngineThread) -> None:
    queue = FakeQueue(OSError("refused"), TimeoutError(), Renewal([], []))
    running = asyncio.create_task(renewer(FakeWorker(), queue, engine_thread).run())
    await renewals(queue, 1)
    await cancel_all([running])


async def test_a_stuck_engine_ends_the_renewals(
    engine_thread: EngineThread, engine: FakeEngine
) -> None:
    engine.gate.clear()
    request = Request(request_id="a", prompt_token_ids=[1], params=SamplingParams())
    engine_thread.submit(request, Generation(1, asyncio.Event()))
    with pytest.raises(EngineStuck, match=r"longer than 0\.05 s"):
        async with asyncio.timeout(WAIT_S):
            await renewer(FakeWorker(), FakeQueue(Renewal([], [])), engine_thread).run()
