"""OpenAI's SDK uploads files and runs batches; an echo worker answers their lines."""

import asyncio
import json

import openai
import pytest
from openai.types import Batch

from api.settings import ApiSettings
from tests.api.batches.sdk import CHAT, TEXT, create, ended, hellos, jsonl, line, lines_of, sdk_of
from tests.fakes_api import FakeService, fake_service


async def test_a_batch_answers_each_line_as_its_route(
    service: FakeService, sdk: openai.AsyncOpenAI
) -> None:
    body = {"model": "letters", "prompt": "hello", "seed": 1}
    bodies = {"good": body, "bad": body | {"top_p": 7}, "fails": body | {"prompt": "fail"}}
    lines = [line(name, one) for name, one in bodies.items()]
    batch = await ended(sdk, await create(sdk, jsonl(lines)))
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (3, 1, 2)
    assert batch.usage is not None and batch.usage.total_tokens > 0
    assert batch.model == "letters"

    [good] = await lines_of(sdk, batch.output_file_id)
    answer = good["response"]["body"]
    direct = (await service.http.post(TEXT, json=body)).json()
    assert (good["custom_id"], good["response"]["status_code"], good["error"]) == (
        "good",
        200,
        None,
    )
    assert answer["id"] == f"cmpl-{good['response']['request_id']}"
    assert answer["choices"] == direct["choices"]
    errors = {one["custom_id"]: one["response"] for one in await lines_of(sdk, batch.error_file_id)}
    refused = (await service.http.post(TEXT, json=bodies["bad"])).json()
    assert (errors["bad"]["status_code"], errors["bad"]["body"]) == (400, refused)
    assert errors["fails"]["status_code"] == 500
    assert errors["fails"]["body"]["error"]["type"] == "server_error"


async def test_a_line_decides_how_long_its_job_is_kept(
    service: FakeService, sdk: openai.AsyncOpenAI
) -> None:
    """For an hour at least: another replica may still have to read the result."""
    ttls = {"short": 1, "default": None, "long": 7200}
    lines = [line(name, {"prompt": "hello", "ttl_s": ttl}) for name, ttl in ttls.items()]
    batch = await ended(sdk, await create(sdk, jsonl([*lines, line("over", {"ttl_s": 10**6})])))
    jobs = {
        one["custom_id"]: one["response"]["request_id"]
        for one in await lines_of(sdk, batch.output_file_id)
    }
    kept = {name: await service.redis.ttl(service.keys.record(id_)) for name, id_ in jobs.items()}
    assert all(3000 < kept[name] <= 3600 for name in ("short", "default"))
    assert 6600 < kept["long"] <= 7200


async def test_a_batch_of_conversations(sdk: openai.AsyncOpenAI) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    batch = await ended(sdk, await create(sdk, jsonl([line("one", body, CHAT)]), CHAT))
    [answer] = await lines_of(sdk, batch.output_file_id)
    assert answer["response"]["body"]["choices"][0]["message"]["role"] == "assistant"


async def test_files_are_stored_listed_and_deleted(sdk: openai.AsyncOpenAI) -> None:
    content = hellos(3)
    files = [
        await sdk.files.create(file=(f"{index}.jsonl", content), purpose="batch")
        for index in range(3)
    ]
    assert (files[0].filename, files[0].bytes, files[0].purpose) == (
        "0.jsonl",
        len(content),
        "batch",
    )
    assert files[0].expires_at == files[0].created_at + 7 * 24 * 3600
    listed = [file.id async for file in sdk.files.list(limit=2)]
    assert listed == [file.id for file in reversed(files)]
    assert [file.id async for file in sdk.files.list(order="asc", limit=1)] == listed[::-1]
    assert [file.id async for file in sdk.files.list(purpose="batch_output")] == []
    assert (await sdk.files.retrieve(files[1].id)) == files[1]
    assert (await sdk.files.content(files[1].id)).content == content
    assert (await sdk.files.delete(files[1].id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.files.content(files[1].id)


async def test_a_file_of_many_parts_is_kept_byte_by_byte(sdk: openai.AsyncOpenAI) -> None:
    content = bytes(range(256)) * 5000
    file = await sdk.files.create(
        file=content,
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    assert (await sdk.files.content(file.id)).content == content


async def test_a_wrong_file_fails_in_validation_with_its_lines(sdk: openai.AsyncOpenAI) -> None:
    good = json.dumps(line("one", {"prompt": "hello"}))
    bad = [
        "no json",
        good,
        json.dumps(line("two", {"prompt": "hello"}, CHAT)),
        json.dumps({"custom_id": "three", "method": "GET", "url": TEXT, "body": {}}),
        json.dumps({"custom_id": "", "method": "POST", "url": TEXT, "body": {}}),
        json.dumps({"custom_id": "four", "method": "POST", "url": TEXT, "body": []}),
        "x" * 1_048_577,
    ]
    batch = await ended(sdk, await create(sdk, "\n".join([good, "", *bad]).encode()))
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
    found = [(error.line, error.code) for error in batch.errors.data]
    assert found == [
        (3, "invalid_json_line"),
        (4, "duplicate_custom_id"),
        (5, "mismatched_endpoint"),
        (6, "invalid_request_line"),
        (7, "invalid_custom_id"),
        (8, "invalid_request_line"),
        (9, "line_too_long"),
    ]
    assert batch.output_file_id is None and batch.failed_at is not None


async def test_an_empty_file_fails(sdk: openai.AsyncOpenAI) -> None:
    batch = await ended(sdk, await create(sdk, b"\n \n"))
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["empty_file"]


async def test_inline_requests_need_no_file(service: FakeService, sdk: openai.AsyncOpenAI) -> None:
    requests = [{"custom_id": "a", "body": {"prompt": "hello", "max_tokens": 2}}]
    created = await service.http.post("/v1/batches", json={"requests": requests, "endpoint": TEXT})
    batch = await ended(sdk, Batch.model_validate(created.json()))
    [answer] = await lines_of(sdk, batch.output_file_id)
    assert answer["custom_id"] == "a"


async def test_a_cancelled_batch_keeps_its_results(
    service: FakeService, sdk: openai.AsyncOpenAI
) -> None:
    service.worker.paused = True
    batch = await create(sdk, hellos(100))
    await service.until(lambda: service.worker.seen)
    assert (await sdk.batches.cancel(batch.id)).status == "cancelling"
    batch = await ended(sdk, batch)
    counts = batch.request_counts
    assert batch.status == "cancelled" and batch.cancelled_at is not None and counts is not None
    assert counts.completed + counts.failed == counts.total == 100
    errors = await lines_of(sdk, batch.error_file_id)
    assert {error["error"]["code"] for error in errors if error["error"]} == {"batch_cancelled"}
    names = [one["custom_id"] for one in [*errors, *await lines_of(sdk, batch.output_file_id)]]
    assert sorted(names) == sorted(f"r{index}" for index in range(100))
    with pytest.raises(openai.ConflictError):
        await sdk.batches.cancel(batch.id)


async def test_a_batch_expires_after_its_window(
    service: FakeService, sdk: openai.AsyncOpenAI
) -> None:
    service.worker.paused = True
    batch = await ended(sdk, await create(sdk, hellos(80), window="1s"))
    assert batch.status == "expired" and batch.expired_at is not None
    errors = await lines_of(sdk, batch.error_file_id)
    assert {error["error"]["code"] for error in errors} == {"batch_expired"}
    assert len(errors) == 80


async def test_batches_are_listed_from_the_newest(
    service: FakeService, sdk: openai.AsyncOpenAI
) -> None:
    made = [(await create(sdk, hellos(1))).id for _ in range(3)]
    assert [batch.id async for batch in sdk.batches.list(limit=2)] == made[::-1]
    page = await sdk.batches.list(after=made[1])
    assert [batch.id for batch in page.data] == made[:1] and not page.has_more


async def test_a_model_without_workers_delays_no_line_of_another_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lane fills up: other lines of the file continue, and so do later batches."""
    monkeypatch.setattr("api.batches.batch_run.STALLED_S", 0.2)
    waiting = [line(f"r{index}", {"model": "beta", "prompt": "hello"}) for index in range(70)]
    answered = line("letters", {"model": "letters", "prompt": "hello", "max_tokens": 3})
    async with fake_service(ApiSettings(models="letters,beta")) as service:
        async with sdk_of(service) as client:
            for _ in range(4):
                await create(client, jsonl(waiting))
            batch = await create(client, jsonl([*waiting, answered]))
            for _ in range(1000):
                batch = await client.batches.retrieve(batch.id)
                counts = batch.request_counts
                if counts is not None and counts.completed == 1:
                    break
                await asyncio.sleep(0.01)
            assert counts is not None and (counts.total, counts.completed) == (71, 1)
            assert batch.status == "in_progress"


async def test_a_batch_takes_no_place_in_the_queue() -> None:
    """Its jobs wait in a lane: the queue's limit of one job still has a place."""
    async with fake_service(ApiSettings(max_queued=1), with_worker=False) as service:
        async with sdk_of(service) as client:
            await create(client, hellos(200))
            lane = service.services.redis.models[0].lane
            for _ in range(3000):
                if await lane.num_waiting() == 64:
                    break
                await asyncio.sleep(0.01)
            assert await lane.num_waiting() == 64
            answer = await service.http.post("/jobs", json={"prompt": "hello"})
            assert (answer.status_code, answer.json()["position"]) == (202, 1)
            assert (await service.http.post("/jobs", json={"prompt": "x"})).status_code == 429
