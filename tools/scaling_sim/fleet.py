"""Workers without a model that run the jobs of a real queue in simulated time.

They claim, finish and release jobs by the same scripts as workers.
"""

import asyncio
from dataclasses import dataclass, field

from shared.protocol import Batch, Succeeded, WorkerInfo
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.registry.worker_registry import Registry
from shared.results import ChatResult, Usage

LEASE_MS = 3_600_000  # no lease may expire: the simulation does not follow Redis' clock
PLENTY = 10**6


@dataclass
class SimWorker:
    id: str
    ready_at: float
    running: dict[str, tuple[float, ClaimedJob]] = field(
        default_factory=dict
    )  # (end, job) by job id


class Fleet:
    """Workers that run `slots` jobs at once for `service_s` each, after loading for `load_s`."""

    def __init__(
        self, queue: JobQueue, registry: Registry, *, slots: int, service_s: float, load_s: float
    ) -> None:
        self.workers: list[SimWorker] = []
        self.finished: list[str] = []
        self.waits_s: list[float] = []  # of the jobs that started in the last step
        self._queue = queue
        self._registry = registry
        self._slots = slots
        self._service_s = service_s
        self._load_s = load_s
        self._num_made = 0

    def ready(self, now: float) -> list[SimWorker]:
        return [worker for worker in self.workers if worker.ready_at <= now]

    async def resize(self, now: float, replicas: int) -> None:
        while len(self.workers) < replicas:
            self._num_made += 1
            self.workers.append(SimWorker(f"w{self._num_made}", now + self._load_s))
        while len(self.workers) > replicas:
            await self._retire(self.workers.pop())

    async def _retire(self, worker: SimWorker) -> None:
        """Release the worker's jobs, which return to the queue."""
        fencing_tokens = {
            job_id: claimed.fencing_token for job_id, (_, claimed) in worker.running.items()
        }
        if fencing_tokens:
            await self._queue.release(worker.id, fencing_tokens)
        await self._registry.remove(worker.id)

    async def step(self, now: float, accepted_at: dict[str, float]) -> None:
        self.waits_s = []
        for worker in self.ready(now):
            await self._finish_due(worker, now)
        for worker in self.ready(now):
            await self._registry.report(worker_info(worker.id))
            await self._fill(worker, now, accepted_at)

    async def _finish_due(self, worker: SimWorker, now: float) -> None:
        due = [claimed for end, claimed in worker.running.values() if end <= now]
        written = await asyncio.gather(
            *(
                self._queue.finish(one, succeeded(one.job.id), fencing_token=one.fencing_token)
                for one in due
            )
        )
        assert all(written)
        for one in due:
            del worker.running[one.job.id]
            self.finished.append(one.job.id)

    async def _fill(self, worker: SimWorker, now: float, accepted_at: dict[str, float]) -> None:
        while free := self._slots - len(worker.running):
            claim = await self._queue.claim(
                worker.id, FreeCapacity(free, PLENTY, len(worker.running)), lease_ms=LEASE_MS
            )
            assert not claim.dead_letters
            if not claim.jobs:
                return
            for one in claim.jobs:
                worker.running[one.job.id] = (now + self._service_s, one)
                self.waits_s.append(now - accepted_at[one.job.id])


def worker_info(worker_id: str) -> WorkerInfo:
    return WorkerInfo(
        id=worker_id, model="none", card_hash="none", device="none", version="0", started_ms=0
    )


def succeeded(job_id: str) -> Succeeded:
    """Return an outcome without text."""
    usage = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    return Succeeded(
        job_id=job_id,
        attempt=1,
        result=ChatResult(result="", id=job_id, sequences=[], usage=usage, seed=0),
        batch=Batch(mean_rows=1.0, max_rows=1),
        queue_ms=0.0,
        run_ms=0.0,
    )
