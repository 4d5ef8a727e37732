"""Streams during kills and freezes of workers and data loss of Redis: each token arrives once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from shared.protocol import JobStatus
from tests.integration.event_reader import TIMEOUT_S, EventReader
from tests.integration.service import ApiChild, Service, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]

TOKENS = 250
PROMPT = {"prompt": "Once upon a time", "return_full_text": False}
ENDLESS = {"max_new_tokens": TOKENS, "eos_token_id": None}
BODIES = {
    "greedy": PROMPT | {"generate_kwargs": ENDLESS | {"do_sample": False}},
    "sampled": PROMPT | {"generate_kwargs": ENDLESS | {"seed": 7, "top_k": 50}},
    "three with scores": PROMPT
    | {
        "generate_kwargs": ENDLESS
        | {"seed": 3, "num_return_sequences": 3, "output_scores": True, "top_logprobs": 2}
    },
    "ends early": PROMPT | {"generate_kwargs": {"max_new_tokens": TOKENS, "do_sample": False}},
}


async def ready_url(api: ApiChild) -> str:
    await api.ready("/readyz")
    return api.url


async def result_of(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sequences of a call without streaming."""
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http:
        answer = await http.post(f"{url}/chat", json=body)
        assert answer.status_code == 200, answer.text
        sequences: list[dict[str, Any]] = answer.json()["sequences"]
        return sequences


def assert_complete(reader: EventReader, undisturbed: list[dict[str, Any]]) -> None:
    """Assert that every token arrived once and in order, and that the result is the same."""
    assert reader.ids == list(range(len(reader.ids)))
    assert reader.end["status"] == "succeeded"
    for index, (told, expected) in enumerate(
        zip(reader.end["sequences"], undisturbed, strict=True)
    ):
        assert reader.text(index) == told["text"] == expected["text"]
        assert len(reader.token_ids(index)) == expected["token_count"]
        assert told["finish_reason"] == expected["finish_reason"]
        if "token_ids" in expected:
            assert reader.token_ids(index) == told["token_ids"] == expected["token_ids"]
            assert told["token_logprobs"] == pytest.approx(expected["token_logprobs"], abs=1e-3)
            tops = zip(told["top_logprobs"], expected["top_logprobs"], strict=True)
            assert all(top == pytest.approx(wanted, abs=1e-3) for top, wanted in tops)


async def told_so_far(reader: EventReader, count: int) -> None:
    async def is_so_far() -> bool:
        return len(reader.events) >= count

    await eventually(is_so_far, TIMEOUT_S)


async def all_done(*work: Awaitable[object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*work)


async def test_streams_continue_seamlessly_when_workers_are_killed(
    service: Service, start_worker: StartWorker, start_api: StartApi
) -> None:
    worker = start_worker(lease_s=1, max_attempts=20)
    urls = [await ready_url(start_api()), await ready_url(start_api())]
    await service.ready(worker)
    readers = {name: EventReader() for name in BODIES}
    streams = [
        asyncio.create_task(reader.chat(urls[0], BODIES[name])) for name, reader in readers.items()
    ]
    for told in (20, 100):
        await told_so_far(readers["greedy"], told)
        worker.kill()
        worker = start_worker(lease_s=1, max_attempts=20)
    await all_done(*streams)
    records = [await service.queue.record(reader.job_id) for reader in readers.values()]
    assert any(record is not None and record.attempts > 1 for record in records)
    for name, reader in readers.items():
        assert_complete(reader, await result_of(urls[1], BODIES[name]))
        again = EventReader()
        await again.follow_with_interruptions(urls, reader.job_id, random.Random(name))
        assert (again.ids, again.events) == (reader.ids, reader.events)
        assert await again.follow(urls[0], reader.job_id) == 204


async def test_readers_with_interruptions_miss_no_token(
    service: Service, start_worker: StartWorker, start_api: StartApi
) -> None:
    """During the job, its worker is killed and Redis loses the streams."""
    worker = start_worker(lease_s=1)
    urls = [await ready_url(start_api()), await ready_url(start_api())]
    await service.ready(worker)
    body = BODIES["three with scores"]
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http:
        job_id = (await http.post(f"{urls[0]}/jobs", json=body)).json()["id"]
    readers = [EventReader() for _ in range(3)]
    reading = [
        asyncio.create_task(reader.follow_with_interruptions(urls, job_id, random.Random(seed)))
        for seed, reader in enumerate(readers)
    ]
    await told_so_far(readers[0], 30)
    worker.kill()
    start_worker(lease_s=1)
    while not all(reader.is_over for reader in readers) and not any(r.done() for r in reading):
        streams = await service.redis.keys(service.keys.replies("*"))
        if streams:
            await service.redis.delete(*streams)
        await asyncio.sleep(0.05)
    await all_done(*reading)
    expected = await result_of(urls[1], body)
    for reader in readers:
        assert_complete(reader, expected)
        assert reader.events == readers[0].events


async def test_the_end_of_a_lost_token_log_is_written_again(
    service: Service, start_worker: StartWorker, start_api: StartApi
) -> None:
    url = await ready_url(start_api())
    await service.ready(start_worker())
    reader = EventReader()
    stream = asyncio.create_task(reader.chat(url, BODIES["sampled"]))
    for told in (30, 100):
        await told_so_far(reader, told)
        [log] = await service.redis.keys(service.keys.token_log("*"))
        await service.redis.ltrim(log, 0, told // 2)
    await all_done(stream)
    assert_complete(reader, await result_of(url, BODIES["sampled"]))
    late = EventReader()
    await late.follow(url, reader.job_id)
    assert (late.ids, late.events) == (reader.ids, reader.events)


async def freeze_at_work(
    service: Service, worker: WorkerChild, url: str
) -> tuple[EventReader, "asyncio.Task[None]"]:
    """Start a stream and freeze its worker before the end; retry on a machine that is too fast."""
    while True:
        reader = EventReader()
        stream = asyncio.create_task(reader.chat(url, BODIES["sampled"]))
        await told_so_far(reader, 10)
        worker.freeze()
        record = await service.queue.record(reader.job_id)
        if record is not None and record.status is JobStatus.RUNNING:
            return reader, stream
        worker.thaw()
        await all_done(stream)


async def test_a_worker_that_resumes_after_a_freeze_adds_no_token(
    service: Service, start_worker: StartWorker, start_api: StartApi
) -> None:
    frozen = start_worker(lease_s=1)
    url = await ready_url(start_api())
    await service.ready(frozen)
    reader, stream = await freeze_at_work(service, frozen, url)
    other = start_worker()
    await told_so_far(reader, 60)
    frozen.thaw()
    await all_done(stream)
    assert_complete(reader, await result_of(url, BODIES["sampled"]))
    record = await service.queue.record(reader.job_id)
    assert record is not None and (record.worker, record.attempts) == (other.id, 2)
    log = service.keys.token_log(reader.job_id)
    assert len(await service.redis.lrange(log, 0, -1)) == TOKENS
