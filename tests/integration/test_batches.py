"""A batch outlives the death of the api replica and of the worker that run it.

`FALCONER_TEST_BATCH_LINES=2000` makes the batch longer.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from shared.batches.file_data import ABANDONED_S
from shared.process.asyncio_tasks import cancel_all
from tests.integration.service import WAIT_S, ApiChild, WorkerChild, eventually

LINES = int(os.environ.get("FALCONER_TEST_BATCH_LINES", "100"))
ENDPOINT = "/v1/completions"
BATCH_WAIT_S = WAIT_S + LINES  # on a slow machine


def line(index: int) -> dict[str, Any]:
    body = {"prompt": f"Once upon a time {index}", "max_tokens": 12, "temperature": 0}
    return {"custom_id": f"r{index}", "method": "POST", "url": ENDPOINT, "body": body}


async def num_done(client: openai.AsyncOpenAI, batch_id: str) -> int:
    counts = (await client.batches.retrieve(batch_id)).request_counts
    return 0 if counts is None else counts.completed


@pytest.mark.parametrize("storage", ["redis", "folder"])
async def test_every_line_has_one_answer_after_replica_and_worker_were_killed(
    start_api: Callable[..., ApiChild],
    start_worker: Callable[..., WorkerChild],
    tmp_path: Path,
    storage: str,
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    flags = {"files_dir": folder} if storage == "folder" else {}
    first, second, worker = start_api(**flags), start_api(**flags), start_worker(max_rows=8)
    await first.ready()
    async with first.sdk() as client:
        batch = await create_batch(client)
    async with second.sdk() as client:

        async def is_under_way() -> bool:
            return await num_done(client, batch.id) >= LINES // 10

        await second.ready()
        await eventually(is_under_way, BATCH_WAIT_S)
        owner, heir = owner_first(batch.id, first, second)
        assert batch.id in owner.log_text
        owner.kill()
        worker.kill()
        start_worker(max_rows=8)
    async with heir.sdk() as client:

        async def has_ended() -> bool:
            return (await client.batches.retrieve(batch.id)).status == "completed"

        await eventually(has_ended, BATCH_WAIT_S)
        ended = await client.batches.retrieve(batch.id)
        await check_answers(client, ended)
        stored = {path.name for path in folder.iterdir()}
        expected = {ended.input_file_id, ended.output_file_id} if flags else set()
        assert stored == expected


async def test_a_started_replica_removes_uploads_of_a_killed_one(
    start_api: Callable[..., ApiChild], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    first = start_api(files_dir=folder)
    await first.ready("/livez")
    upload = asyncio.create_task(upload_without_end(first.url))

    async def num_parts_is(count: int) -> bool:
        return len([*folder.glob("*.part")]) == count

    await eventually(partial(num_parts_is, 1))
    first.kill()
    await cancel_all([upload])
    [left] = folder.glob("*.part")
    os.utime(left, (0, time.time() - 2 * ABANDONED_S))
    (folder / "file-of-another-replica.part").touch()
    (folder / "notes.part").touch()
    os.utime(folder / "notes.part", (0, 0))
    start_api(files_dir=folder)
    await eventually(partial(num_parts_is, 2))
    assert {path.name for path in folder.iterdir()} == {
        "file-of-another-replica.part",
        "notes.part",
    }


async def upload_without_end(url: str) -> None:
    """Send a file whose last part never comes."""

    async def body() -> AsyncIterator[bytes]:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"'
        yield head + b"\r\n\r\n" + bytes(100_000)
        await asyncio.Event().wait()

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        await http.post(f"{url}/v1/files", content=body(), headers=headers)


def owner_first(batch_id: str, first: ApiChild, second: ApiChild) -> tuple[ApiChild, ApiChild]:
    """Return the replica that runs the batch, by its log, then the other one."""
    return (first, second) if batch_id in first.log_text else (second, first)


async def create_batch(client: openai.AsyncOpenAI) -> Batch:
    content = b"".join(json.dumps(line(index)).encode() + b"\n" for index in range(LINES))
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h"
    )


async def check_answers(client: openai.AsyncOpenAI, ended: Batch) -> None:
    """Check that each line has one answer, and some of them against the route itself."""
    assert ended.output_file_id is not None and ended.error_file_id is None
    text = (await client.files.content(ended.output_file_id)).text
    answers = [json.loads(one) for one in text.splitlines()]
    assert sorted(one["custom_id"] for one in answers) == sorted(f"r{i}" for i in range(LINES))
    texts = {one["custom_id"]: one["response"]["body"]["choices"][0]["text"] for one in answers}
    for index in range(0, LINES, max(1, LINES // 10)):
        direct = await client.completions.create(model="tiny", **line(index)["body"])
        assert texts[f"r{index}"] == direct.choices[0].text
    counts, usage = ended.request_counts, ended.usage
    assert counts is not None and (counts.completed, counts.failed) == (LINES, 0)
    assert usage is not None
    tokens = sum(one["response"]["body"]["usage"]["total_tokens"] for one in answers)
    assert usage.total_tokens == tokens
