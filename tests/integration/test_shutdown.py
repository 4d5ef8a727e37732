"""Workers that get a stop signal: twice, while they load, and during a Redis outage."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from shared.protocol import Succeeded
from shared.queue.backlog import Depth
from tests.integration.service import WAIT_S, Service, WorkerChild, eventually
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
LONG = 1500  # tokens: seconds of work on any machine
NEVER_S = 10 * WAIT_S


async def said(worker: WorkerChild, text: str) -> None:
    async def is_there() -> bool:
        return text in worker.log_text

    await eventually(is_there)


async def test_a_loading_worker_exits_at_once_on_a_signal(
    start_worker: StartWorker,
) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        worker = start_worker()
        await said(worker, "loading model")
        worker.process.send_signal(signum)
        assert await worker.exit_code() in (128 + signum, 0)  # 0: it had loaded
        assert "Traceback" not in worker.log_text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_makes_a_worker_release_its_jobs_at_once(
    service: Service, start_worker: StartWorker, signum: signal.Signals
) -> None:
    worker = start_worker(grace_s=NEVER_S, lease_s=NEVER_S)
    await service.ready(worker)
    job = await service.submit(new_tokens=LONG)
    await service.wait_until_started(job)
    worker.process.send_signal(signum)

    async def is_told() -> bool:
        return not await service.registry.workers()

    await eventually(is_told)
    worker.process.send_signal(signum)
    assert await worker.exit_code() == 0, worker.log_text
    assert await service.queue.depth() == Depth(waiting=1, running=0)
    assert (await service.record(job)).attempts == 0


@pytest.mark.parametrize("is_mute", [False, True], ids=["gone", "mute"])
async def test_a_worker_stops_though_redis_does_not_answer(
    service: Service, start_worker: StartWorker, redis_server: RedisServer, is_mute: bool
) -> None:
    worker = start_worker(grace_s=0)
    await service.ready(worker)
    [job] = await service.freeze_at_work(worker, new_tokens=200)
    redis_server.freeze() if is_mute else redis_server.kill()
    worker.process.send_signal(signal.SIGTERM)
    worker.thaw()
    code = await worker.exit_code()
    redis_server.thaw() if is_mute else redis_server.start()
    assert code == 0, worker.log_text
    assert "Traceback" not in worker.log_text
    start_worker()
    assert isinstance(await job.end(), Succeeded)  # at once, or after its lease


async def test_stopped_workers_use_no_attempt(service: Service, start_worker: StartWorker) -> None:
    jobs = [await service.submit(new_tokens=LONG // 3) for _ in range(4)]
    for _ in range(2):
        worker = start_worker(grace_s=0, lease_s=NEVER_S, max_attempts=1)
        await service.wait_until_started(jobs[0])
        worker.freeze()
        worker.process.send_signal(signal.SIGTERM)
        worker.thaw()
        assert await worker.exit_code() == 0, worker.log_text
        records = [await service.record(job) for job in jobs]
        assert {record.attempts for record in records} == {0}
    start_worker(max_attempts=1)
    ends = await asyncio.gather(*(job.end() for job in jobs))
    assert all(isinstance(end, Succeeded) for end in ends)
