"""A job that kills every worker that runs it, and the jobs that run with it."""

import asyncio
from collections.abc import Callable

import pytest

from shared.protocol import Failed, JobRecord, JobStatus, Succeeded
from shared.queue.backlog import Depth
from tests.integration.service import Service, SubmittedJob, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
MAX_ATTEMPTS = 3
NUM_OTHERS = 6
LONG = 1500  # tokens, more than it can generate before the kill


async def submit_other(service: Service, seed: int) -> SubmittedJob:
    return await service.submit(new_tokens=200, seed=seed)


async def text_of(job: SubmittedJob) -> str:
    end = await job.end()
    assert isinstance(end, Succeeded), end
    return end.result.result


def runs_on(worker: WorkerChild, record: JobRecord) -> bool:
    return record.status is JobStatus.RUNNING and record.worker == worker.id


class WorkerKiller:
    """Kills each worker as soon as the poison job has started on it, and starts another one."""

    def __init__(self, service: Service, poison: SubmittedJob, start_worker: StartWorker) -> None:
        self.batches: list[set[str]] = []  # jobs that ran on each killed worker
        self._service = service
        self._poison = poison
        self._start_worker = start_worker

    async def run(self, others: list[SubmittedJob]) -> None:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            worker = self._start_worker(lease_s=3)  # long enough for a busy machine
            await self._wait_until_started(attempt)
            worker.process.kill()
            records = [await self._service.record(other) for other in others]
            self.batches.append({r.id for r in records if runs_on(worker, r)})

    async def _wait_until_started(self, attempt: int) -> None:
        async def has_started() -> bool:
            record = await self._service.record(self._poison)
            return record.status is JobStatus.RUNNING and record.attempts == attempt

        await eventually(has_started)


async def test_a_job_that_kills_its_workers_fails_and_others_succeed(
    service: Service, start_worker: StartWorker
) -> None:
    poison = await service.submit(new_tokens=LONG)
    others = [await submit_other(service, seed) for seed in range(NUM_OTHERS)]
    killer = WorkerKiller(service, poison, start_worker)
    await killer.run(others)
    assert killer.batches[0] == {other.id for other in others}
    assert killer.batches[-1] == set()  # it ran alone on the last worker
    start_worker()
    end = await poison.end()
    assert isinstance(end, Failed) and end.status is JobStatus.FAILED
    assert end.error.message == "the worker running this job died 3 times; given up"
    dead = await service.redis.lrange(service.keys.dead_letters, 0, -1)
    assert dead == [poison.id.encode()]
    texts = await asyncio.gather(*map(text_of, others))
    again = [await submit_other(service, seed) for seed in range(NUM_OTHERS)]
    assert texts == await asyncio.gather(*map(text_of, again))
    assert await service.queue.depth() == Depth(waiting=0, running=0)
