"""After an enqueue without an answer, the job is cancelled, or found by its idempotency key."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import TimeoutError

from api.app import create_app, lifespan
from api.jobs.pending_cancellations import PendingCancellations
from api.settings import ApiSettings
from shared.process.asyncio_tasks import cancel_all
from shared.protocol import JobRecord
from shared.queue.backlog import Depth
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.factories import make_job
from tests.fakes_api import FakeService
from tests.redis_server import RedisServer

KEY = {"Idempotency-Key": "k1"}


def lose_the_next_answer(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, command: str = "enqueue"
) -> None:
    """Let Redis run the next command and lose its reply, in an outage."""
    queue = service.services.redis.queue
    do: Any = getattr(queue, command)

    async def do_in_vain(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(queue, command, do)
        await do(*args, **kwargs)
        service.server.connected = False
        raise TimeoutError

    monkeypatch.setattr(queue, command, do_in_vain)


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_a_job_with_an_unanswered_enqueue_is_cancelled_after_the_outage(
    workerless: FakeService, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    lose_the_next_answer(workerless, monkeypatch)
    response = await workerless.http.post(path, json={"prompt": "hello"})
    assert response.status_code == 503
    named = re.search("job ([0-9a-f]+) was accepted", response.json()["detail"])
    assert named is not None
    workerless.server.connected = True
    await workerless.until_queued(0)
    record = await workerless.http.get(f"/jobs/{named[1]}")
    assert record.json()["status"] == "cancelled"


async def test_a_job_with_a_key_is_found_by_the_next_request(
    workerless: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_next_answer(workerless, monkeypatch)
    first = await workerless.http.post("/jobs", json={"prompt": "hello"}, headers=KEY)
    assert first.status_code == 503
    assert "the same Idempotency-Key finds it" in first.json()["detail"]
    workerless.server.connected = True
    lose_the_next_answer(workerless, monkeypatch)
    await workerless.http.post("/jobs", json={"prompt": "hello"})
    workerless.server.connected = True
    await workerless.until_queued(1)  # the job without a key is cancelled by now
    again = await workerless.http.post("/jobs", json={"prompt": "hello"}, headers=KEY)
    assert (again.status_code, again.json()["position"]) == (202, 1)
    assert await workerless.num_queued() == 1


async def test_a_job_that_arrives_after_its_cancellation_is_cancelled_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An enqueue is valid for as long as the api waits for its reply."""
    queue, job, has_cancelled = JobQueue(FakeAsyncRedis(), Keys()), make_job(), asyncio.Event()
    cancel = queue.cancel

    async def noted_cancel(job_id: str) -> JobRecord | None:
        record = await cancel(job_id)
        has_cancelled.set()
        return record

    monkeypatch.setattr(queue, "cancel", noted_cancel)
    cancellations = PendingCancellations(queue)
    cancellations.add(job.id)
    cancelling = asyncio.create_task(cancellations.run())
    await has_cancelled.wait()
    await queue.enqueue(job, reply_to=None, max_queued=9)
    await cancellations.wait_until_sent()
    assert await queue.depth() == Depth(waiting=0, running=0)
    await cancel_all([cancelling])


async def test_an_unanswered_retry_is_returned_by_the_next_request(
    workerless: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (await workerless.http.post("/jobs", json={"prompt": "hello"})).json()
    path = f"/jobs/{job['id']}"
    await workerless.http.delete(path)
    lose_the_next_answer(workerless, monkeypatch, "retry")
    response = await workerless.http.post(f"{path}/retry")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert "the same request returns it" in response.json()["detail"]
    workerless.server.connected = True
    again = await workerless.http.post(f"{path}/retry")
    assert (again.status_code, again.json()["retry_of"]) == (202, job["id"])
    assert await workerless.num_queued() == 1


@pytest.fixture
def freezable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.thaw()
    server.stop()


async def test_a_job_enqueued_at_a_frozen_redis_does_not_run_after_the_thaw(
    freezable_redis: RedisServer,
) -> None:
    """Redis then reads the job, after its deadline, and the cancellation, in any order."""
    app = create_app(ApiSettings(redis_url=freezable_redis.url))
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        assert (await http.get("/readyz")).status_code == 200
        freezable_redis.freeze()
        response = await http.post("/jobs", json={"prompt": "hello"}, timeout=30)
        freezable_redis.thaw()
        assert response.status_code == 503
        await app.state.services.cancellations.wait_until_sent()
        queue: JobQueue = app.state.services.redis.queue
        assert await queue.depth() == Depth(waiting=0, running=0)
        assert await queue.totals() == {}


async def test_a_job_enqueued_at_a_frozen_redis_does_not_run_after_its_api_ended(
    freezable_redis: RedisServer,
) -> None:
    """Redis then reads the job from a connection that is closed at its other end."""
    app = create_app(ApiSettings(redis_url=freezable_redis.url))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        async with lifespan(app):
            assert (await http.post("/jobs", json={"prompt": "hello"})).status_code == 202
            freezable_redis.freeze()
            response = await http.post("/jobs", json={"prompt": "hello"}, timeout=30)
            assert response.status_code == 503
    freezable_redis.thaw()
    redis = connect(freezable_redis.url, name="test")
    assert await JobQueue(redis, Keys()).depth() == Depth(waiting=1, running=0)
    await redis.aclose()


async def test_a_job_refused_for_lack_of_memory_is_not_cancelled(
    freezable_redis: RedisServer,
) -> None:
    """Redis replied that it refused the job, so the job cannot run."""
    app = create_app(ApiSettings(redis_url=freezable_redis.url))
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        redis = connect(freezable_redis.url, name="test")
        await redis.config_set("maxmemory", 1)
        response = await http.post("/chat", json={"prompt": "hello"})
        assert response.status_code == 503
        assert "command not allowed when used memory > 'maxmemory'" in response.json()["detail"]
        assert "Retry-After" in response.headers
        await app.state.services.cancellations.wait_until_sent()
        assert await redis.keys() == []
        await redis.aclose()
