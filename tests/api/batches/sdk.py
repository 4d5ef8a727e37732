"""Calls of OpenAI's SDK that the tests of batches have in common."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import httpx2
import openai
from openai.types import Batch

from tests.fakes_api import FakeService

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDED = ("completed", "failed", "expired", "cancelled")


def line(name: str, body: dict[str, Any], url: str = TEXT) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def hellos(count: int) -> bytes:
    body = {"model": "letters", "prompt": "hello", "max_tokens": 3}
    return jsonl(line(f"r{index}", body) for index in range(count))


def sdk_of(service: FakeService) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(service.asgi))
    return openai.AsyncOpenAI(
        base_url="http://api/v1", api_key="none", http_client=http, max_retries=0
    )


async def create(
    client: openai.AsyncOpenAI, content: bytes, endpoint: Any = TEXT, window: Any = "24h"
) -> Batch:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=window
    )


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    for _ in range(3000):
        batch = await client.batches.retrieve(batch.id)
        if batch.status in ENDED:
            return batch
        await asyncio.sleep(0.01)
    raise AssertionError(f"the batch is {batch.status}")


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    content = await client.files.content(file_id)
    return [json.loads(one) for one in content.text.splitlines()]
