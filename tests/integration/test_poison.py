"""A job that kills whatever worker runs it, and the jobs that have to run beside it."""

import asyncio
from collections.abc import Callable

import pytest

from shared.protocol import Failed, Finished, JobRecord, JobStatus
from shared.queue.job_queue import Depth
from tests.integration.service import Service, Submitted, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
MAX_ATTEMPTS = 3
NUM_MATES = 6
LONG = 1500  # tokens: it never ends before its worker does


async def submit_mate(service: Service, seed: int) -> Submitted:
    return await service.submit(new_tokens=200, seed=seed)


async def text_of(job: Submitted) -> str:
    end = await job.end()
    assert isinstance(end, Finished), end
    return end.result.result


def runs_on(worker: WorkerChild, record: JobRecord) -> bool:
    return record.status is JobStatus.RUNNING and record.worker == worker.id


class Deaths:
    """Kills each worker as soon as the poison job has begun there, and starts another."""

    def __init__(self, service: Service, poison: Submitted, start_worker: StartWorker) -> None:
        self.company: list[set[str]] = []  # at each death: the mates that ran on the same worker
        self._service = service
        self._poison = poison
        self._start_worker = start_worker

    async def run(self, mates: list[Submitted]) -> None:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            worker = self._start_worker(lease_s=3)  # of which a busy machine needs some
            await self._begun(attempt)
            worker.process.kill()
            records = [await self._service.record(mate) for mate in mates]
            self.company.append({r.id for r in records if runs_on(worker, r)})

    async def _begun(self, attempt: int) -> None:
        async def has_begun() -> bool:
            record = await self._service.record(self._poison)
            return record.status is JobStatus.RUNNING and record.attempts == attempt

        await eventually(has_begun)


async def test_a_job_that_kills_its_workers_is_given_up_and_costs_the_others_only_time(
    service: Service, start_worker: StartWorker
) -> None:
    poison = await service.submit(new_tokens=LONG)
    mates = [await submit_mate(service, seed) for seed in range(NUM_MATES)]
    deaths = Deaths(service, poison, start_worker)
    await deaths.run(mates)
    assert deaths.company[0] == {mate.id for mate in mates}
    assert deaths.company[-1] == set()  # it had the last worker for itself
    start_worker()
    end = await poison.end()
    assert isinstance(end, Failed) and end.status is JobStatus.FAILED
    assert end.error.message == "the worker running this job died 3 times; given up"
    dead = await service.redis.lrange(service.keys.dead_letters, 0, -1)
    assert dead == [poison.id.encode()]
    disturbed = await asyncio.gather(*map(text_of, mates))
    again = [await submit_mate(service, seed) for seed in range(NUM_MATES)]
    assert disturbed == await asyncio.gather(*map(text_of, again))
    assert await service.queue.depth() == Depth(waiting=0, running=0)
