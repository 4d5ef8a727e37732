"""A worker process on a Redis without faults; all tests share both."""

import asyncio
from collections.abc import Iterator

import pytest

from shared.protocol import Failed, JobStatus, Succeeded, TokenDeltas
from tests.integration.service import Service, WorkerChild, launch
from tests.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.integration

LONG = 1500  # tokens: seconds of work on any machine
MAX_ROWS = 32


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_worker(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerChild]:
    log = tmp_path_factory.mktemp("worker") / "log"
    settings = {"redis_url": redis_server.url, "worker_id": "w1", "lease_s": 600}
    settings |= {"max_rows": MAX_ROWS, "log_level": "debug"}
    worker = WorkerChild(launch("worker", settings, log), log, "w1")
    yield worker
    worker.kill()


@pytest.fixture(autouse=True)
async def worker(service: Service, shared_worker: WorkerChild) -> WorkerChild:
    await service.ready(shared_worker)
    return shared_worker


async def test_a_streamed_job_yields_its_tokens_and_then_its_result(
    service: Service,
) -> None:
    job = await service.submit(new_tokens=12, stream=True)
    end = await job.end()
    assert isinstance(end, Succeeded)
    published = [event for event in job.events if isinstance(event, TokenDeltas)]
    deltas = [delta for each in published for delta in each.deltas]
    assert (published[0].index, len(deltas), end.num_deltas) == (0, 12, 12)
    text = "".join(delta.text for delta in deltas)
    assert end.result.sequences[0].text == text
    assert end.result.result == "Once upon a time" + text
    assert end.result.usage.completion_tokens == 12
    record = await service.record(job)
    assert (record.status, record.attempts, record.worker) == (JobStatus.SUCCEEDED, 1, "w1")


async def test_cancelling_a_running_job_frees_its_row(
    service: Service, worker: WorkerChild
) -> None:
    jobs = await service.freeze_at_work(worker, MAX_ROWS, new_tokens=LONG)
    waiting = await service.submit()
    await service.queue.cancel(jobs[0].id)
    worker.thaw()
    end = await jobs[0].end()
    assert isinstance(end, Failed) and end.status is JobStatus.CANCELLED
    assert isinstance(await waiting.end(), Succeeded)
    for job in jobs[1:]:
        await service.queue.cancel(job.id)
    await asyncio.gather(*(job.end() for job in jobs[1:]))


async def test_a_job_past_its_deadline_is_stopped_and_expires(service: Service) -> None:
    """No machine runs 1500 steps of all rows in a second."""
    jobs = [await service.submit(new_tokens=LONG, deadline_s=1) for _ in range(MAX_ROWS)]
    for job in [*jobs, await service.submit(deadline_s=0)]:
        end = await job.end()
        assert isinstance(end, Failed) and end.status is JobStatus.EXPIRED
        assert end.error.status_code == 504


async def test_the_worker_checks_a_job_that_the_api_could_not_check(
    service: Service,
) -> None:
    job = await service.submit(generate_kwargs={"max_new_tokens": 5000})
    end = await job.end()
    assert isinstance(end, Failed)
    assert (end.error.status_code, end.error.field) == (400, "generate_kwargs.max_new_tokens")
    wrong = await service.submit(generate_kwargs={"top_p": 7})
    end = await wrong.end()
    assert isinstance(end, Failed)
    assert (end.error.status_code, end.error.field) == (422, "generate_kwargs.top_p")


async def test_concurrent_jobs_share_steps(service: Service, worker: WorkerChild) -> None:
    worker.freeze()
    jobs = [await service.submit(new_tokens=100) for _ in range(MAX_ROWS)]
    worker.thaw()
    ends = await asyncio.gather(*(job.end() for job in jobs))
    mean_rows = [end.batch.mean_rows for end in ends if isinstance(end, Succeeded)]
    assert len(mean_rows) == MAX_ROWS
    assert sum(mean_rows) / MAX_ROWS >= MAX_ROWS / 2


async def test_prompts_are_not_logged(service: Service, worker: WorkerChild) -> None:
    """Prompts are not logged at any level."""
    assert isinstance(await (await service.submit()).end(), Succeeded)
    assert "debug" in worker.log_text
    assert "Once upon" not in worker.log_text
