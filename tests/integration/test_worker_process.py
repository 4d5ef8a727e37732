"""Real worker processes on a real Redis, on their good and their bad days."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from shared.protocol import Failed, Finished, JobStatus, Stretch
from shared.queue import Depth
from tests.integration.service import WAIT_S, Service, Submitted, WorkerChild, eventually
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
LONG = 1500  # tokens: seconds of work on any machine


async def test_a_streamed_job_yields_its_tokens_and_then_its_result(
    service: Service, start_worker: StartWorker
) -> None:
    await service.ready(start_worker())
    job = await service.submit(new_tokens=12, stream=True)
    end = await job.end()
    assert isinstance(end, Finished)
    stretches = [event for event in job.events if isinstance(event, Stretch)]
    deltas = [delta for stretch in stretches for delta in stretch.deltas]
    assert (stretches[0].index, len(deltas), end.num_deltas) == (0, 12, 12)
    text = "".join(delta.text for delta in deltas)
    assert end.result.sequences[0].text == text
    assert end.result.result == "Once upon a time" + text
    assert end.result.usage.completion_tokens == 12
    record = await service.record(job)
    assert (record.status, record.attempts, record.worker) == (JobStatus.SUCCEEDED, 1, "w1")


async def test_killing_a_worker_loses_none_of_its_jobs(
    service: Service, start_worker: StartWorker
) -> None:
    victim, survivor = start_worker(), start_worker()
    await service.ready(victim, survivor)
    jobs = [await service.submit(new_tokens=150) for _ in range(20)]
    await service.running(20)
    victim.kill()
    ends = await asyncio.gather(*(job.end() for job in jobs))
    assert all(isinstance(end, Finished) for end in ends)
    records = [await service.record(job) for job in jobs]
    assert {record.attempts for record in records} <= {1, 2}
    assert await service.queue.depth() == Depth(waiting=0, running=0)
    assert all(job.subscription._events.empty() for job in jobs)  # one result each


async def test_a_restart_of_redis_loses_nothing(
    service: Service, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    worker = start_worker(max_rows=4)
    await service.ready(worker)
    jobs = [await service.submit(new_tokens=200) for _ in range(8)]  # 4 run, 4 wait
    await service.running(4)
    redis_server.kill()
    await asyncio.sleep(0.5)
    redis_server.start()
    ends = await asyncio.gather(*(job.end() for job in jobs))
    assert all(isinstance(end, Finished) for end in ends)
    assert worker.process.poll() is None


async def test_a_stopped_worker_hands_its_jobs_back(
    service: Service, start_worker: StartWorker
) -> None:
    stopped = start_worker(grace_s=0, lease_s=600)
    await service.ready(stopped)
    job = await service.submit(new_tokens=LONG)
    await service.running(1)
    stopped.process.send_signal(signal.SIGTERM)
    assert await stopped.exit_code() == 0, stopped.log_text
    assert await service.queue.depth() == Depth(waiting=1, running=0)
    assert await service.registry.workers() == []
    start_worker()
    assert isinstance(await job.end(), Finished)
    assert (await service.record(job)).attempts == 1  # the first one did not count


async def test_a_stopped_worker_finishes_what_it_can_in_the_grace_period(
    service: Service, start_worker: StartWorker
) -> None:
    stopped = start_worker(grace_s=WAIT_S)
    await service.ready(stopped)
    job = await service.submit(new_tokens=150)
    await service.running(1)
    stopped.process.send_signal(signal.SIGTERM)
    assert isinstance(await job.end(), Finished)
    assert await stopped.exit_code() == 0, stopped.log_text


async def freeze_at_work(service: Service, worker: WorkerChild) -> Submitted:
    """A job that the worker has begun and not ended; on a slow machine the first may slip by."""
    while True:
        job = await service.submit(new_tokens=LONG)
        await service.has_begun(job)
        worker.process.send_signal(signal.SIGSTOP)
        if (await service.record(job)).status is JobStatus.RUNNING:
            return job
        worker.process.send_signal(signal.SIGCONT)


async def test_a_frozen_worker_that_thaws_writes_nothing_twice(
    service: Service, start_worker: StartWorker
) -> None:
    frozen = start_worker(lease_s=1)
    await service.ready(frozen)
    job = await freeze_at_work(service, frozen)
    other = start_worker()
    end = await job.end()
    frozen.process.send_signal(signal.SIGCONT)
    assert isinstance(end, Finished) and end.attempt == 2
    again = await service.submit()  # both are well
    assert isinstance(await again.end(), Finished)

    async def has_noticed() -> bool:
        return "lost the lease" in frozen.log_text or "had ended before" in frozen.log_text

    await eventually(has_noticed)
    record = await service.record(job)
    assert (record.worker, record.attempts) == (other.id, 2)
    assert job.subscription._events.empty()


async def test_cancelling_a_running_job_frees_its_row(
    service: Service, start_worker: StartWorker
) -> None:
    await service.ready(start_worker(max_rows=1, lease_s=600))
    endless = await service.submit(new_tokens=LONG)
    await service.running(1)
    waiting = await service.submit()
    await service.queue.cancel(endless.id)
    end = await endless.end()
    assert isinstance(end, Failed) and end.status is JobStatus.CANCELLED
    assert isinstance(await waiting.end(), Finished)


async def test_a_job_past_its_deadline_is_stopped_and_says_so(
    service: Service, start_worker: StartWorker
) -> None:
    await service.ready(start_worker())
    running = await service.submit(new_tokens=LONG, deadline_s=1.5)
    late = await service.submit(deadline_s=0)
    for job in (running, late):
        end = await job.end()
        assert isinstance(end, Failed) and end.status is JobStatus.EXPIRED
        assert end.error.status_code == 504


async def test_a_job_the_api_could_not_check_is_checked_by_the_worker(
    service: Service, start_worker: StartWorker
) -> None:
    await service.ready(start_worker())
    job = await service.submit(generate_kwargs={"max_new_tokens": 5000})
    end = await job.end()
    assert isinstance(end, Failed)
    assert (end.error.status_code, end.error.field) == (400, "generate_kwargs.max_new_tokens")
    wrong = await service.submit(generate_kwargs={"top_p": 7})
    end = await wrong.end()
    assert isinstance(end, Failed)
    assert (end.error.status_code, end.error.field) == (422, "generate_kwargs.top_p")


async def test_jobs_that_come_together_run_together(
    service: Service, start_worker: StartWorker
) -> None:
    await service.ready(start_worker())
    jobs = [await service.submit(new_tokens=100) for _ in range(32)]
    ends = await asyncio.gather(*(job.end() for job in jobs))
    mean_rows = [end.batch.mean_rows for end in ends if isinstance(end, Finished)]
    assert len(mean_rows) == 32
    assert sum(mean_rows) / 32 >= 16


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"redis_url": "http://127.0.0.1"}, "redis_url"),
        ({"max_rows": 0}, "max-rows"),
        ({"device": "abacus"}, "device"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_one_line(
    start_worker: StartWorker, flags: dict[str, object], said: str
) -> None:
    worker = start_worker(**flags)
    assert await worker.exit_code() in (1, 2)
    assert said in worker.log_text.splitlines()[-1]
    assert "Traceback" not in worker.log_text


async def test_prompts_are_not_logged(service: Service, start_worker: StartWorker) -> None:
    worker = start_worker(log_level="debug")
    await service.ready(worker)
    job = await service.submit()
    end = await job.end()
    assert isinstance(end, Finished)
    assert "Once upon" not in worker.log_text
