"""Real workers that freeze at the worst moments and thaw when another one has done their work."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from shared.protocol import Finished, JobStatus
from shared.queue.job_queue import Depth
from shared.queue.scripts import Script
from tests.integration.redis_proxy import RedisProxy, Way
from tests.integration.service import WAIT_S, Service, Submitted, WorkerChild, eventually
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
LEASE_S = 1


class FreezingProxy(RedisProxy):
    """Freezes its worker when that sends a word; what was sent arrives after `restore`."""

    def __init__(self, redis_port: int) -> None:
        super().__init__(redis_port)
        self.has_frozen = asyncio.Event()
        self._freezing: tuple[WorkerChild, bytes] | None = None

    def freeze_at(self, worker: WorkerChild, word: bytes) -> None:
        self._freezing = worker, word

    def _cuts(self, data: bytes) -> bool:
        if self._freezing is not None and self._freezing[1] in data:
            self._freezing[0].process.send_signal(signal.SIGSTOP)
            self._freezing = None
            self.hold(Way.TO_REDIS)
            self.has_frozen.set()
        return super()._cuts(data)


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FreezingProxy]:
    """Asked for first, so that it ends last: after its workers."""
    proxy = FreezingProxy(redis_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def digest(service: Service, script: Script) -> bytes:
    """By which a worker calls the script; Redis knows it, so that the first call is not in vain."""
    known = await service.redis.script_load(service.queue._scripts._scripts[script].script)
    return known.encode() if isinstance(known, str) else known


async def frozen_at(proxy: FreezingProxy, worker: WorkerChild, word: bytes) -> None:
    proxy.freeze_at(worker, word)
    async with asyncio.timeout(WAIT_S):
        await proxy.has_frozen.wait()


async def thaw(proxy: FreezingProxy, worker: WorkerChild) -> None:
    """What it had sent arrives; then it goes on."""
    proxy.restore()
    await asyncio.sleep(0.2)
    worker.process.send_signal(signal.SIGCONT)


async def check_written_once(service: Service, job: Submitted, by: WorkerChild) -> None:
    record = await service.record(job)
    assert (record.status, record.worker) == (JobStatus.SUCCEEDED, by.id)
    assert await service.queue.totals() == {JobStatus.QUEUED: 1, JobStatus.SUCCEEDED: 1}
    assert await service.queue.depth() == Depth(waiting=0, running=0)
    assert job.subscription._events.empty()
    assert await service.redis.lrange(service.keys.dead_letters, 0, -1) == []


async def check_serves(service: Service, worker: WorkerChild, other: WorkerChild) -> None:
    """Alone, and so that it has nothing left over of its frozen time."""
    other.process.send_signal(signal.SIGTERM)
    assert await other.exit_code() == 0
    job = await service.submit()
    assert isinstance(await job.end(), Finished)
    assert (await service.record(job)).worker == worker.id


async def test_a_worker_frozen_in_a_claim_runs_nothing_that_another_has_run(
    proxy: FreezingProxy, start_worker: StartWorker, service: Service
) -> None:
    claim = await digest(service, Script.CLAIM)  # first: who loads it is told the digest, too
    frozen = start_worker(redis_url=proxy.url, lease_s=LEASE_S)
    await service.ready(frozen)
    await frozen_at(proxy, frozen, claim)
    job = await service.submit()
    proxy.restore()  # Redis gives the job to a worker that does not hear of it

    async def is_claimed() -> bool:
        return (await service.record(job)).status is JobStatus.RUNNING

    await eventually(is_claimed)
    other = start_worker(lease_s=LEASE_S)
    end = await job.end()
    assert isinstance(end, Finished) and end.attempt == 1  # nobody had begun it
    await thaw(proxy, frozen)
    await check_serves_and_once(service, job, frozen, other)


async def test_a_worker_frozen_while_it_writes_a_result_writes_no_second_one(
    proxy: FreezingProxy, start_worker: StartWorker, service: Service
) -> None:
    frozen = start_worker(redis_url=proxy.url, lease_s=LEASE_S)
    await service.ready(frozen)
    job = await service.submit()
    await frozen_at(proxy, frozen, await digest(service, Script.FINISH))
    other = start_worker(lease_s=LEASE_S)
    end = await job.end()
    assert isinstance(end, Finished) and end.attempt == 2
    await thaw(proxy, frozen)  # its result comes to Redis now, too late
    await check_serves_and_once(service, job, frozen, other)


async def test_a_worker_frozen_while_it_hands_a_job_back_takes_it_from_nobody(
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
    assert isinstance(await job.end(), Finished)
    await thaw(proxy, frozen)
    assert await frozen.exit_code() == 0
    await check_written_once(service, job, other)


async def check_serves_and_once(
    service: Service, job: Submitted, frozen: WorkerChild, other: WorkerChild
) -> None:
    await asyncio.sleep(2 * LEASE_S)  # time to do wrong
    await check_written_once(service, job, other)
    await check_serves(service, frozen, other)
