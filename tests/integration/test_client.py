"""The client while the service refuses requests, loses Redis or restarts."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from falconer import AsyncClient, Client, Retries, TooManyRequests, Unavailable
from tests.integration.service import ApiChild, Service, WorkerChild
from tests.redis_server import RedisServer, free_port

pytestmark = pytest.mark.integration

StartApi = Callable[..., ApiChild]
StartWorker = Callable[..., WorkerChild]

PROMPT = "Once upon a time"
ONCE = Retries(attempts=1)
PATIENT = Retries(attempts=60, total_s=180.0)
NUM_NEW = 300
KWARGS = {"max_new_tokens": NUM_NEW, "eos_token_id": None, "seed": 7}


async def test_a_full_queue_is_an_error_with_retry_after_or_waited_out(start_api: StartApi) -> None:
    api = start_api(max_queued=1)
    await api.ready("/readyz")
    async with AsyncClient(api.url, retries=PATIENT) as client:
        first = await client.submit(PROMPT)
        for retries in (ONCE, Retries(attempts=9, total_s=0.1)):
            with Client(api.url, retries=retries) as impatient:
                with pytest.raises(TooManyRequests, match="the queue is full") as caught:
                    await asyncio.to_thread(impatient.submit, PROMPT)
                assert caught.value.status == 429
                assert caught.value.retry_after is not None
                assert caught.value.retry_after >= 1
        waiting = asyncio.create_task(client.submit(PROMPT))
        await asyncio.sleep(0)
        await first.cancel()
        second = await waiting
        assert [info.id async for info in client.jobs("queued")] == [second.id]


async def test_a_submission_during_an_outage_of_redis_makes_one_job(
    start_api: StartApi, redis_server: RedisServer
) -> None:
    api = start_api()
    await api.ready("/readyz")
    async with AsyncClient(api.url, retries=PATIENT) as client:
        redis_server.freeze()
        with Client(api.url, retries=ONCE) as impatient, pytest.raises(Unavailable) as caught:
            await asyncio.to_thread(impatient.job, "0" * 32)
        assert caught.value.status == 503
        assert caught.value.retry_after is not None
        waiting = asyncio.create_task(client.submit(PROMPT))
        with Client(api.url, retries=ONCE) as impatient, pytest.raises(Unavailable):
            await asyncio.to_thread(impatient.job, "0" * 32)
        redis_server.thaw()
        job = await waiting
        assert [info.id async for info in client.jobs()] == [job.id]


async def test_a_stream_and_a_wait_outlive_their_replica(
    service: Service, start_api: StartApi, start_worker: StartWorker
) -> None:
    port = free_port()
    api = start_api(port=port)
    await api.ready("/readyz")
    await service.ready(start_worker())
    async with AsyncClient(api.url, retries=PATIENT) as client:
        job = await client.submit(PROMPT, generate_kwargs=KWARGS)
        other = await client.submit(PROMPT, generate_kwargs=KWARGS)
        waiting = asyncio.create_task(other.wait())
        deltas = []
        async for delta in job.stream():
            deltas.append(delta)
            if len(deltas) == 20:
                api.process.send_signal(signal.SIGTERM)
                assert await api.exit_code() == 0, api.log_text
                start_api(port=port)
        result = await waiting
    assert [delta.index for delta in deltas] == list(range(NUM_NEW))
    assert "".join(delta.text for delta in deltas) == result.text == (await job.wait()).text
