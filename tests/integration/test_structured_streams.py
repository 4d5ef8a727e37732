"""A structured output survives the death of the worker that streams it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletionChunk

from shared.protocol import JobStatus
from tests.integration.service import ApiChild, Service, WorkerChild, eventually

pytestmark = pytest.mark.integration

SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 12,
    "maxItems": 12,
    "items": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["falcon", "kite"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["kind", "age"],
        "additionalProperties": False,
    },
}
REQUEST: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hello"}],
    "seed": 7,
    "temperature": 1.5,
    "stream": True,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "birds", "schema": SCHEMA},
    },
}
SEEN = 20  # chunks before the worker dies; the text has over a hundred


class Stream:
    """The chunks of one answer that a client received."""

    def __init__(self, chunks: AsyncIterator[ChatCompletionChunk]) -> None:
        self.chunks: list[ChatCompletionChunk] = []
        self.reading = asyncio.create_task(self._read(chunks))

    async def _read(self, chunks: AsyncIterator[ChatCompletionChunk]) -> None:
        async for chunk in chunks:
            self.chunks.append(chunk)

    async def is_under_way(self) -> bool:
        return len(self.chunks) >= SEEN

    @property
    def job_id(self) -> str:
        return self.chunks[0].id.removeprefix("chatcmpl-")

    @property
    def deltas(self) -> list[str | None]:
        """Return what each chunk adds to the text."""
        return [chunk.choices[0].delta.content for chunk in self.chunks]


async def freeze_while_streaming(
    service: Service, worker: WorkerChild, client: openai.AsyncOpenAI
) -> Stream:
    """Freeze the worker while it streams; repeat if it has ended the answer before."""
    while True:
        stream = Stream(await client.chat.completions.create(**REQUEST))
        await eventually(stream.is_under_way)
        worker.freeze()
        record = await service.queue.record(stream.job_id)
        if record is not None and record.status is JobStatus.RUNNING:
            return stream
        worker.thaw()
        await stream.reading


async def test_a_stream_of_json_continues_after_its_worker_was_killed(
    service: Service,
    start_worker: Callable[..., WorkerChild],
    start_api: Callable[..., ApiChild],
) -> None:
    worker, api = start_worker(lease_s=1), start_api()
    await api.ready()
    await service.ready(worker)
    async with api.sdk() as client:
        stream = await freeze_while_streaming(service, worker, client)
        worker.kill()
        start_worker(lease_s=1)
        await stream.reading
        undisturbed = Stream(await client.chat.completions.create(**REQUEST))
        await undisturbed.reading
    Draft202012Validator(SCHEMA).validate(json.loads("".join(text or "" for text in stream.deltas)))
    assert stream.deltas == undisturbed.deltas
    assert [chunk.choices[0].finish_reason for chunk in stream.chunks[-2:]] == [None, "stop"]
    record = await service.queue.record(stream.job_id)
    assert record is not None and record.attempts == 2
