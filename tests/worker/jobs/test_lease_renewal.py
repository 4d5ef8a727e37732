"""Leases are kept while the engine makes steps, and only then."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.process.asyncio_tasks import cancel_all
from shared.queue.claims import Renewal
from tests.worker.fake_engine import FakeEngine
from worker.engine import Request, SamplingParams
from worker.engine_thread import EngineThread
from worker.generation import Generation
from worker.jobs.lease_renewal import EngineStuck, LeaseRenewer

WAIT_S = 30.0


class Held:
    fence = 3


class FakeWorker:
    """Holds one job and notes what it is told."""

    worker_id = "w1"

    def __init__(self) -> None:
        self.held = {"a": Held()}
        self.renewal_due = asyncio.Event()
        self.told: list[tuple[str, ...]] = []

    def cancel(self, job_id: str) -> None:
        self.told.append(("cancel", job_id))

    def lose(self, job_id: str, fence: int) -> None:
        self.told.append(("lose", job_id, str(fence)))


class FakeQueue:
    """Answers renewals in turn, the last one for ever; exceptions are raised."""

    def __init__(self, *answers: Renewal | Exception) -> None:
        self.answers = list(answers)
        self.renewed = asyncio.Semaphore(0)

    async def renew(self, worker_id: str, fences: dict[str, int], *, lease_ms: int) -> Renewal:
        assert (worker_id, fences) == ("w1", {"a": 3})
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
async def runtime(engine: FakeEngine) -> AsyncIterator[EngineThread]:
    runtime = EngineThread(engine)
    runtime.start()
    yield runtime
    engine.gate.set()
    runtime.stop()


def keep(
    worker: FakeWorker, queue: FakeQueue, runtime: EngineThread, lease_ms: int = 30
) -> LeaseRenewer:
    made: LeaseRenewer = LeaseRenewer(
        worker,  # type: ignore[arg-type]  # has what the keeper uses
        queue,  # type: ignore[arg-type]
        runtime,
        lease_ms=lease_ms,
        step_timeout_s=0.05,
    )
    return made


async def renewals(queue: FakeQueue, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        for _ in range(count):
            await queue.renewed.acquire()


async def test_an_idle_worker_keeps_its_leases(runtime: EngineThread) -> None:
    queue = FakeQueue(Renewal([], []))
    running = asyncio.create_task(keep(FakeWorker(), queue, runtime).run())
    await renewals(queue, 3)
    await cancel_all([running])


async def test_leases_are_renewed_at_once_where_the_worker_wants_it(
    runtime: EngineThread,
) -> None:
    worker, queue = FakeWorker(), FakeQueue(Renewal([], []))
    running = asyncio.create_task(keep(worker, queue, runtime, lease_ms=3_600_000).run())
    await renewals(queue, 1)
    for _ in range(2):
        worker.renewal_due.set()
        await renewals(queue, 1)
    await cancel_all([running])


async def test_what_a_renewal_says_reaches_the_worker(runtime: EngineThread) -> None:
    worker, queue = FakeWorker(), FakeQueue(Renewal(["a"], ["a"]), Renewal([], []))
    running = asyncio.create_task(keep(worker, queue, runtime).run())
    await renewals(queue, 2)
    await cancel_all([running])
    assert worker.told == [("cancel", "a"), ("lose", "a", "3")]


async def test_renewals_go_on_after_redis_was_away(runtime: EngineThread) -> None:
    queue = FakeQueue(OSError("refused"), TimeoutError(), Renewal([], []))
    running = asyncio.create_task(keep(FakeWorker(), queue, runtime).run())
    await renewals(queue, 1)
    await cancel_all([running])


async def test_a_stuck_engine_ends_the_keeping(runtime: EngineThread, engine: FakeEngine) -> None:
    engine.gate.clear()
    request = Request(request_id="a", prompt_token_ids=[1], params=SamplingParams())
    runtime.submit(request, Generation(1, asyncio.Event()))
    with pytest.raises(EngineStuck, match=r"longer than 0\.05 s"):
        async with asyncio.timeout(WAIT_S):
            await keep(FakeWorker(), FakeQueue(Renewal([], [])), runtime).run()
