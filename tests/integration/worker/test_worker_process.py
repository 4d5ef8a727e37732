"""Worker processes that are killed, stopped and frozen."""

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
NEW_TOKENS = 200


async def test_killing_a_worker_loses_none_of_its_jobs(
    service: Service, start_worker: StartWorker
) -> None:
    victim = start_worker()
    await service.ready(victim)
    jobs = await service.freeze_at_work(victim, 20, new_tokens=NEW_TOKENS)
    victim.kill()
    start_worker()
    ends = await asyncio.gather(*(job.end() for job in jobs))
    assert all(isinstance(end, Succeeded) for end in ends)
    records = [await service.record(job) for job in jobs]
    assert {record.attempts for record in records} <= {1, 2}
    assert await service.queue.depth() == Depth(waiting=0, running=0)
    assert not any([await job.has_another_event() for job in jobs])  # one result per job


async def test_a_restart_of_redis_loses_no_job(
    service: Service, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    worker = start_worker(max_rows=4)
    await service.ready(worker)
    jobs = await service.freeze_at_work(worker, 8, new_tokens=NEW_TOKENS)  # 4 run, 4 wait
    redis_server.kill()
    worker.thaw()
    await asyncio.sleep(0.5)
    redis_server.start()
    ends = await asyncio.gather(*(job.end() for job in jobs))
    assert all(isinstance(end, Succeeded) for end in ends)
    assert worker.process.poll() is None


async def test_a_stopped_worker_releases_its_jobs(
    service: Service, start_worker: StartWorker
) -> None:
    stopped = start_worker(grace_s=0, lease_s=600)
    await service.ready(stopped)
    [job] = await service.freeze_at_work(stopped, new_tokens=NEW_TOKENS)
    stopped.process.send_signal(signal.SIGTERM)
    stopped.thaw()
    assert await stopped.exit_code() == 0, stopped.log_text
    assert await service.queue.depth() == Depth(waiting=1, running=0)
    assert await service.registry.workers() == []
    start_worker()
    assert isinstance(await job.end(), Succeeded)
    assert (await service.record(job)).attempts == 1  # the first attempt did not count


async def test_a_stopped_worker_finishes_what_it_can_in_the_grace_period(
    service: Service, start_worker: StartWorker
) -> None:
    stopped = start_worker(grace_s=WAIT_S)
    await service.ready(stopped)
    [job] = await service.freeze_at_work(stopped, new_tokens=NEW_TOKENS)
    stopped.process.send_signal(signal.SIGTERM)
    stopped.thaw()
    assert isinstance(await job.end(), Succeeded)
    assert await stopped.exit_code() == 0, stopped.log_text


async def test_a_worker_that_resumes_after_a_freeze_writes_no_second_result(
    service: Service, start_worker: StartWorker
) -> None:
    frozen = start_worker(lease_s=1)
    await service.ready(frozen)
    [job] = await service.freeze_at_work(frozen, new_tokens=NEW_TOKENS)
    other = start_worker()
    end = await job.end()
    frozen.thaw()
    assert isinstance(end, Succeeded) and end.attempt == 2
    again = await service.submit()  # both workers serve
    assert isinstance(await again.end(), Succeeded)

    async def has_noticed() -> bool:
        return "lost the lease" in frozen.log_text or "outcome discarded" in frozen.log_text

    await eventually(has_noticed)
    record = await service.record(job)
    assert (record.worker, record.attempts) == (other.id, 2)
    assert not await job.has_another_event()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"redis_url": "http://127.0.0.1"}, "redis_url"),
        ({"max_rows": 0}, "max-rows"),
        ({"device": "abacus"}, "device"),
    ],
)
async def test_an_invalid_setting_stops_the_start_with_one_line(
    start_worker: StartWorker, flags: dict[str, object], said: str
) -> None:
    worker = start_worker(**flags)
    assert await worker.exit_code() in (1, 2)
    assert said in worker.log_text.splitlines()[-1]
    assert "Traceback" not in worker.log_text
