"""The `openai` package at `/v1/files` and `/v1/batches`."""

import json
from typing import Any

import openai
import pytest
from openai.types import Batch
from openai.types.responses import Response

from tests.clients.stock.calls import HELLO, MODEL, WAIT_S, Calls, Target, with_async_client

calls = Calls("openai")

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": MODEL, "prompt": "Hello", "max_tokens": 4, "temperature": 0},
    "/v1/chat/completions": {"model": MODEL, "messages": HELLO, "max_tokens": 4},
    "/v1/responses": {"model": MODEL, "input": "Hello", "max_output_tokens": 4},
}
TEXT = "/v1/completions"
NUM_LINES = 4


def lines(endpoint: str = TEXT) -> bytes:
    request = {"method": "POST", "url": endpoint, "body": BODIES[endpoint]}
    made = [json.dumps({"custom_id": f"r{index}"} | request) for index in range(NUM_LINES)]
    return "\n".join(made).encode()


def upload(target: Target, content: bytes, **options: Any) -> Any:
    file = ("lines.jsonl", content)
    return target.openai.files.create(file=file, purpose="batch", **options)


def create(target: Target, endpoint: Any = TEXT, content: bytes | None = None) -> Batch:
    file = upload(target, content or lines(endpoint))
    return target.openai.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h"
    )


def ended(target: Target, batch: Batch) -> Batch:
    found: list[Batch] = []

    def has_ended() -> bool:
        found.append(target.openai.batches.retrieve(batch.id))
        return found[-1].status in ("completed", "failed", "expired", "cancelled")

    target.wait(has_ended)
    return found[-1]


def answers(target: Target, batch: Batch) -> list[dict[str, Any]]:
    """Return the answers to the lines of a batch, in the order of their ids."""
    batch = ended(target, batch)
    assert batch.status == "completed" and batch.output_file_id is not None, batch
    text = target.openai.files.content(batch.output_file_id).text
    done = sorted(map(json.loads, text.splitlines()), key=lambda line: str(line["custom_id"]))
    assert [line["custom_id"] for line in done] == [f"r{index}" for index in range(NUM_LINES)]
    return done


@calls("files.create", "a file of a batch")
def create_file(target: Target) -> None:
    file = upload(target, lines())
    assert (file.filename, file.bytes, file.purpose) == ("lines.jsonl", len(lines()), "batch")


@calls("files.create", "`expires_after`")
def expiring_file(target: Target) -> None:
    file = upload(target, lines(), expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600


@calls("files.create", "asynchronously")
@with_async_client
async def create_file_asynchronously(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("lines.jsonl", lines()), purpose="batch")
    assert (await client.files.content(file.id)).content == lines()


@calls("files.retrieve", "a file")
def retrieve_file(target: Target) -> None:
    file = upload(target, lines())
    assert target.openai.files.retrieve(file.id) == file


@calls("files.list", "in pages")
def list_files(target: Target) -> None:
    made = [upload(target, lines()).id for _ in range(3)]
    listed = [file.id for file in target.openai.files.list(limit=2)]
    assert listed[:3] == made[::-1]


@calls("files.content", "a file")
def file_content(target: Target) -> None:
    assert target.openai.files.content(upload(target, lines()).id).content == lines()


@calls("files.delete", "a file")
def delete_file(target: Target) -> None:
    file = upload(target, lines())
    assert target.openai.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        target.openai.files.retrieve(file.id)


@calls("files.wait_for_processing", "a file")
def wait_for_file(target: Target) -> None:
    file = upload(target, lines())
    assert target.openai.files.wait_for_processing(file.id).status == "processed"


@calls("batches.create", "lines of `/v1/completions`")
def batch_of_texts(target: Target) -> None:
    done = answers(target, create(target))
    direct = target.openai.completions.create(**BODIES[TEXT])
    for line in done:
        assert line["response"]["body"]["choices"][0]["text"] == direct.choices[0].text


@calls("batches.create", "lines of `/v1/chat/completions`")
def batch_of_conversations(target: Target) -> None:
    for line in answers(target, create(target, "/v1/chat/completions")):
        assert line["response"]["body"]["object"] == "chat.completion"


@calls("batches.create", "lines of `/v1/responses`")
def batch_of_responses(target: Target) -> None:
    for line in answers(target, create(target, "/v1/responses")):
        response = Response.model_validate(line["response"]["body"])
        assert (response.object, response.status) == ("response", "incomplete")
        assert response.usage is not None and response.usage.output_tokens == 4


@calls("batches.create", "`requests` instead of a file")
def inline_batch(target: Target) -> None:
    requests = [json.loads(line) for line in lines().splitlines()]
    body = {"requests": requests, "endpoint": TEXT, "completion_window": "2h"}
    batch = target.openai.post("/batches", body=body, cast_to=Batch)
    assert len(answers(target, batch)) == NUM_LINES


@calls("batches.create", "a line that is wrong, in the error file")
def batch_with_error(target: Target) -> None:
    wrong = {"custom_id": "wrong", "method": "POST", "url": TEXT, "body": {"prompt": 7}}
    content = lines() + b"\n" + json.dumps(wrong).encode()
    batch = ended(target, create(target, content=content))
    assert batch.request_counts is not None and batch.error_file_id is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (NUM_LINES, 1)
    [line] = target.openai.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(line)["response"]["body"]["error"]["param"] == "prompt"


@calls("batches.create", "a file that is no JSONL, whose batch fails")
def batch_of_nonsense(target: Target) -> None:
    batch = ended(target, create(target, content=b"nonsense"))
    assert batch.status == "failed" and batch.errors is not None
    assert [error.line for error in batch.errors.data or []] == [1]


@calls("batches.retrieve", "`request_counts` and `usage`")
def retrieve_batch(target: Target) -> None:
    batch = ended(target, create(target))
    assert batch.request_counts is not None and batch.usage is not None
    assert batch.request_counts.completed == NUM_LINES
    assert batch.usage.output_tokens == 4 * NUM_LINES


@calls("batches.list", "in pages")
def list_batches(target: Target) -> None:
    made = [create(target).id for _ in range(3)]
    assert [batch.id for batch in target.openai.batches.list(limit=2)][:3] == made[::-1]


@calls("batches.cancel", "a batch under way")
def cancel_batch(target: Target) -> None:
    body = BODIES[TEXT] | {"max_tokens": 1900, "ignore_eos": True}
    line = {"custom_id": "long", "method": "POST", "url": TEXT, "body": body}
    batch = create(target, content=json.dumps(line).encode())
    assert target.openai.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    assert ended(target, batch).status == "cancelled"


@calls("batches.create", "asynchronously")
@with_async_client
async def batch_asynchronously(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("lines.jsonl", lines()), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint=TEXT, completion_window="24h"
    )
    while batch.status in ("validating", "in_progress", "finalizing"):
        batch = await client.with_options(timeout=WAIT_S).batches.retrieve(batch.id)
    assert batch.status == "completed"
