"""The client while the service refuses requests, loses Redis or restarts."""

import asyncio
import signal
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from falconer import AsyncClient, Client, Retries, TooManyRequests, Unavailable
from shared.process.sockets import free_port
from shared.protocol import JobStatus
from tests.integration.service import WAIT_S, ApiChild, Service, WorkerChild, eventually
from tests.redis_server import RedisServer
from tests.terminal import PATIENCE_S, terminal

pytestmark = pytest.mark.integration

StartApi = Callable[..., ApiChild]
StartWorker = Callable[..., WorkerChild]

PROMPT = "Once upon a time"
ONCE = Retries(attempts=1)
PATIENT = Retries(attempts=60, total_s=180.0)
NUM_NEW = 300
KWARGS = {"max_new_tokens": NUM_NEW, "eos_token_id": None, "seed": 7}


async def num_refused(api: ApiChild) -> float:
    """Return the number of submissions that got 429."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{api.url}/metrics", timeout=WAIT_S)).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "falconer_requests_total" and sample.labels["code"] == "429"
    )


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

        async def is_refused() -> bool:
            return await num_refused(api) == 3

        await eventually(is_refused)
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


async def test_an_interrupt_cancels_the_answer_and_keeps_the_conversation(
    start_api: StartApi,
) -> None:
    """Without a worker the job waits until the interrupt."""
    api = start_api()
    await api.ready("/readyz")
    async with AsyncClient(api.url) as client:

        async def statuses() -> list[JobStatus]:
            return [info.status async for info in client.jobs()]

        with terminal("chat", "--url", api.url) as screen:
            await asyncio.to_thread(screen.wait_for, "> ")
            for number in range(1, 6):  # again if it was still submitting the job

                async def is_queued(number: int = number) -> bool:
                    return len(await statuses()) == number

                screen.type("What is a falcon?\n")
                await eventually(is_queued)
                screen.process.send_signal(signal.SIGINT)
                await asyncio.to_thread(screen.wait_for, "> ")
                if "cancelled" in await statuses():
                    break
            assert "cancelled" in await statuses()
            screen.type("\x04")
            assert await asyncio.to_thread(screen.process.wait, PATIENCE_S) == 0
