"""Workers that freeze at critical moments, and resume after another worker has run their jobs."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from shared.protocol import JobStatus, Succeeded
from shared.queue.backlog import Depth
from shared.queue.scripts import Script
from tests.integration.redis.proxy import Direction, RedisProxy
from tests.integration.service import WAIT_S, Service, SubmittedJob, WorkerChild, eventually
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
LEASE_S = 1


class FreezingProxy(RedisProxy):
    """Freezes a worker when it sends a trigger. Redis gets what the worker sent after `restore`."""

    def __init__(self, redis_port: int) -> None:
        super().__init__(redis_port)
        self.has_frozen = asyncio.Event()
        self._freezing: tuple[WorkerChild, bytes] | None = None

    def freeze_at(self, worker: WorkerChild, trigger: bytes) -> None:
        self._freezing = worker, trigger

    def intercept(self, data: bytes) -> bool:
        if self._freezing is not None and self._freezing[1] in data:
            self._freezing[0].process.send_signal(signal.SIGSTOP)
            self._freezing = None
            self.block(Direction.TO_REDIS)
            self.has_frozen.set()
        return super().intercept(data)


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FreezingProxy]:
    """Requested before the workers, so that it stops after them."""
    proxy = FreezingProxy(redis_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def digest(service: Service, script: Script) -> bytes:
    """Load a script into Redis and return the digest by which a worker calls it."""
    known = await service.redis.script_load(service.queue._scripts._scripts[script].script)
    return known.encode() if isinstance(known, str) else known


async def frozen_at(proxy: FreezingProxy, worker: WorkerChild, trigger: bytes) -> None:
    proxy.freeze_at(worker, trigger)
    async with asyncio.timeout(WAIT_S):
        await proxy.has_frozen.wait()


async def thaw(proxy: FreezingProxy, worker: WorkerChild) -> None:
    """Deliver what the worker had sent, then resume it."""
    proxy.restore()
    await asyncio.sleep(0.2)
    worker.process.send_signal(signal.SIGCONT)


async def check_written_once(service: Service, job: SubmittedJob, by: WorkerChild) -> None:
    record = await service.record(job)
    assert (record.status, record.worker) == (JobStatus.SUCCEEDED, by.id)
    assert await service.queue.totals() == {JobStatus.QUEUED: 1, JobStatus.SUCCEEDED: 1}
    assert await service.queue.depth() == Depth(waiting=0, running=0)
    assert not await job.has_another_event()
    assert await service.redis.lrange(service.keys.dead_letters, 0, -1) == []


async def check_serves(service: Service, worker: WorkerChild, other: WorkerChild) -> None:
    """Assert that the worker serves a job after the other one has stopped."""
    other.process.send_signal(signal.SIGTERM)
    assert await other.exit_code() == 0
    job = await service.submit()
    assert isinstance(await job.end(), Succeeded)
    assert (await service.record(job)).worker == worker.id


async def test_a_worker_frozen_in_a_claim_does_not_run_the_job_again(
    proxy: FreezingProxy, start_worker: StartWorker, service: Service
) -> None:
    claim = await digest(
        service, Script.CLAIM
    )  # load it first: a worker that loads it sends its digest, too
    frozen = start_worker(redis_url=proxy.url, lease_s=LEASE_S)
    await service.ready(frozen)
    await frozen_at(proxy, frozen, claim)
    job = await service.submit()
    proxy.restore()  # Redis leases the job to the frozen worker

    async def is_claimed() -> bool:
        return (await service.record(job)).status is JobStatus.RUNNING

    await eventually(is_claimed)
    other = start_worker(lease_s=LEASE_S)
    end = await job.end()
    assert isinstance(end, Succeeded) and end.attempt == 1  # the frozen worker had not started it
    await thaw(proxy, frozen)
    await check_serves_and_once(service, job, frozen, other)


async def test_a_worker_frozen_while_writing_a_result_does_not_write_a_second_one(
    proxy: FreezingProxy, start_worker: StartWorker, service: Service
) -> None:
    frozen = start_worker(redis_url=proxy.url, lease_s=LEASE_S)
    await service.ready(frozen)
    job = await service.submit()
    await frozen_at(proxy, frozen, await digest(service, Script.FINISH))
    other = start_worker(lease_s=LEASE_S)
    end = await job.end()
    assert isinstance(end, Succeeded) and end.attempt == 2
    await thaw(proxy, frozen)  # Redis gets its result now, too late
    await check_serves_and_once(service, job, frozen, other)


async def test_a_worker_frozen_while_releasing_a_job_does_not_take_it_from_another(
    proxy: FreezingProxy, start_worker: StartWorker, service: Service
) -> None:
    frozen = start_worker(redis_url=proxy.url, lease_s=LEASE_S, grace_s=0)
    await service.ready(frozen)
    [job] = await service.freeze_at_work(frozen, new_tokens=200)
    proxy.freeze_at(frozen, await digest(service, Script.RELEASE))
    frozen.process.send_signal(signal.SIGTERM)
    frozen.thaw()
    async with asyncio.timeout(WAIT_S):
        await proxy.has_frozen.wait()
    other = start_worker(lease_s=LEASE_S)
    assert isinstance(await job.end(), Succeeded)
    await thaw(proxy, frozen)
    assert await frozen.exit_code() == 0
    await check_written_once(service, job, other)


async def check_serves_and_once(
    service: Service, job: SubmittedJob, frozen: WorkerChild, other: WorkerChild
) -> None:
    await asyncio.sleep(2 * LEASE_S)  # time for wrong writes
    await check_written_once(service, job, other)
    await check_serves(service, frozen, other)
