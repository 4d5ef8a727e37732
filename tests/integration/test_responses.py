"""A response in the background, when its worker and the api replica that streams it are killed."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from shared.protocol import JobStatus
from tests.integration.service import ApiChild, Service, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]

REQUEST: dict[str, Any] = {
    "model": "tiny",
    "input": "Once upon a time",
    "max_output_tokens": 250,
    "top_logprobs": 2,
    "extra_body": {"seed": 7, "ignore_eos": True},
}


@dataclass
class EventLog:
    """The events of one response that a client received."""

    events: list[ResponseStreamEvent] = field(default_factory=list)

    @property
    def response_id(self) -> str:
        first = self.events[0]
        assert first.type == "response.created"
        return first.response.id

    @property
    def text(self) -> str:
        return "".join(e.delta for e in self.events if e.type == "response.output_text.delta")

    async def take(self, stream: openai.AsyncStream[ResponseStreamEvent]) -> None:
        async for event in stream:
            self.events.append(event)

    async def has(self, count: int) -> None:
        async def is_so_far() -> bool:
            return len(self.events) >= count

        await eventually(is_so_far)


async def freeze_while_streaming(
    service: Service, worker: WorkerChild, client: openai.AsyncOpenAI
) -> tuple[EventLog, "asyncio.Task[None]"]:
    """Stream a new response and freeze its worker before the end; repeat on a fast machine."""
    while True:
        log = EventLog()
        stream = await client.responses.create(**REQUEST, background=True, stream=True)
        reading = asyncio.create_task(log.take(stream))
        await log.has(20)
        worker.freeze()
        record = await service.queue.record(log.response_id.removeprefix("resp_"))
        if record is not None and record.status is JobStatus.RUNNING:
            return log, reading
        worker.thaw()
        await reading


async def test_a_response_survives_its_worker_and_the_replica_that_streams_it(
    service: Service, start_worker: StartWorker, start_api: StartApi
) -> None:
    worker, first, second = start_worker(lease_s=1), start_api(), start_api()
    for api in (first, second):
        await api.ready()
    await service.ready(worker)
    async with first.sdk() as client:
        log, reading = await freeze_while_streaming(service, worker, client)
        worker.kill()
        first.kill()
        with pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
            await reading
    start_worker(lease_s=1)
    async with second.sdk() as client:
        after = log.events[-1].sequence_number
        rest = await client.responses.retrieve(log.response_id, stream=True, starting_after=after)
        await log.take(rest)
        undisturbed = await client.responses.create(**REQUEST)
        again = EventLog()
        await again.take(await client.responses.retrieve(log.response_id, stream=True))
        polled = await client.responses.retrieve(log.response_id)
    assert [event.sequence_number for event in log.events] == list(range(len(log.events)))
    assert log.events == again.events
    assert log.text == polled.output_text == undisturbed.output_text
    last = log.events[-1]
    assert last.type == "response.incomplete" and last.response == polled
    record = await service.queue.record(log.response_id.removeprefix("resp_"))
    assert record is not None and record.attempts == 2
