"""The typed events of `/v1/responses`: OpenAI's types, with the same numbers on every replica."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.openai.responses.events import ResponseEvents
from api.openai.responses.request import ResponseRequest
from api.openai.responses.stored import ResponseShape
from api.openai.responses.view import ResponseView
from api.openai.view import AnswerHead
from shared.protocol import Delta, JobRecord, JobStatus, TokenDeltas
from shared.results import SequenceResult
from tests.api.job_events import JobWriter, claim_job, until_events_awaited, without_replies
from tests.factories import make_succeeded
from tests.fakes_api import FakeService, abandoned_call, fake_service

PATH = "/v1/responses"
IN_BACKGROUND = {"input": "hi", "background": True, "stream": True}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

Event = dict[str, Any]


@pytest.fixture
async def other(workerless: FakeService) -> AsyncIterator[FakeService]:
    """Return a second replica on the Redis of `workerless`."""
    async with fake_service(with_worker=False, server=workerless.server) as replica:
        yield replica


def events_of(text: str) -> list[Event]:
    """Return the events, which name their type twice."""
    events = []
    for block in filter(None, text.split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events[1:]] == [
        event["sequence_number"] + 1 for event in events[:-1]
    ]
    return events


def types(events: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def all_events(deltas: list[Delta], cuts: set[int]) -> list[Event]:
    """Return the events of a response with two messages, whose log arrives in parts."""
    shape = ResponseShape.of(
        ResponseRequest.model_validate({"input": "hi", "n": 2}), "letters", None
    )
    record = JobRecord(id="1", status=JobStatus.RUNNING, created_ms=5000)
    events = ResponseEvents(ResponseView(shape, AnswerHead(["1"], 5, None, None)))
    found = list(events.opening(record))
    borders = sorted({0, len(deltas)} | cuts)
    for start, end in pairwise(borders):
        part = TokenDeltas(job_id="1", index=start, deltas=deltas[start:end])
        found += events.deltas(record, part)
    texts = ["".join(d.text for d in deltas if d.sequence == index) for index in range(2)]
    outcome = make_succeeded("1")
    sequences = [SequenceResult(text=text, finish_reason="length", token_count=1) for text in texts]
    result = replace(outcome.result, sequences=sequences)
    ended = replace(record, status=JobStatus.SUCCEEDED, outcome=replace(outcome, result=result))
    return [*found, *events.ending(ended)]


@given(
    deltas=st.lists(st.tuples(st.integers(0, 1), st.text(max_size=3)), max_size=12),
    cuts=st.sets(st.integers(1, 11)),
)
def test_the_events_do_not_depend_on_how_the_log_arrives(
    deltas: list[tuple[int, str]], cuts: set[int]
) -> None:
    log = [Delta(sequence=sequence, text=text, token_ids=[1]) for sequence, text in deltas]
    events = all_events(log, {cut for cut in cuts if cut < len(log)})
    assert events == all_events(log, set())
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    for index, message in enumerate(events[-1]["response"]["output"]):
        text = "".join(
            event["delta"]
            for event in events
            if "delta" in event and event["output_index"] == index
        )
        assert message["content"][0]["text"] == text


async def create(service: FakeService, **fields: Any) -> list[Event]:
    response = await service.http.post(PATH, json={"input": "hi", "stream": True} | fields)
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    return events_of(response.text)


async def follow(service: FakeService, response_id: str, after: int | None = None) -> list[Event]:
    params: dict[str, Any] = {"stream": "true"}
    if after is not None:
        params["starting_after"] = after
    async with asyncio.timeout(60):
        response = await service.http.get(f"{PATH}/{response_id}", params=params)
    assert response.status_code == 200, response.text
    return events_of(response.text)


async def in_background(service: FakeService) -> tuple[str, JobWriter]:
    """Create a response in the background and claim its job."""
    body = {"input": "hi", "background": True}
    response_id = (await service.http.post(PATH, json=body)).json()["id"]
    return response_id, await claim_job(service)


async def test_a_stream_has_openais_events(service: FakeService) -> None:
    events = await create(service)
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(9))
    last = events[-1]["response"]
    assert events[4]["delta"] == events[5]["text"] == last["output"][0]["content"][0]["text"]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert (await service.http.get(f"{PATH}/{last['id']}")).json() == last


async def test_a_response_in_the_background_is_queued_first(service: FakeService) -> None:
    events = await create(service, background=True)
    assert types(events)[:3] == ["created", "queued", "in_progress"]
    statuses = [event["response"]["status"] for event in events if "response" in event]
    assert statuses == ["queued", "queued", "in_progress", "completed"]


async def test_a_stream_resumes_after_any_event_on_any_replica(
    workerless: FakeService, other: FakeService
) -> None:
    response_id, writer = await in_background(workerless)
    await writer.write("one", "", "two", "three")
    await writer.finish()
    events = await follow(workerless, response_id)
    assert [event["delta"] for event in events if "delta" in event] == ["one", "two", "three"]
    assert events[0]["sequence_number"] == 0
    for after in range(len(events) + 2):
        rest = await follow(other if after % 2 else workerless, response_id, after)
        assert rest == events[after + 1 :]


async def test_a_stream_that_is_resumed_while_the_job_runs_misses_no_event(
    workerless: FakeService, other: FakeService
) -> None:
    """The first replica loses replies, and reads the log instead."""
    response_id, writer = await in_background(workerless)
    streams = [
        asyncio.create_task(follow(service, response_id, after))
        for service, after in ((workerless, None), (other, None), (other, 6))
    ]
    await writer.write("one")
    for replica in (workerless, other):
        await until_events_awaited(replica, writer.job.id)
    async with without_replies(workerless):
        await writer.write("two", "three")
    await writer.write("four")
    await writer.finish()
    first, second, rest = await asyncio.gather(*streams)
    assert first == second
    assert first[7:] == rest
    assert "".join(event.get("delta", "") for event in first) == "onetwothreefour"


@pytest.mark.parametrize("words", [(), ("one", "two")])
async def test_a_failed_response_ends_its_stream_with_the_error(
    workerless: FakeService, other: FakeService, words: tuple[str, ...]
) -> None:
    response_id, writer = await in_background(workerless)
    if words:
        await writer.write(*words)
    await writer.fail()
    events = await follow(workerless, response_id)
    assert types(events)[-1] == "failed"
    assert [event["delta"] for event in events if "delta" in event] == list(words)
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "no room"}
    assert (await other.http.get(f"{PATH}/{response_id}")).json() == response
    assert await follow(other, response_id, 1) == events[2:]


async def test_a_cancelled_response_ends_its_stream(workerless: FakeService) -> None:
    response = await workerless.http.post(PATH, json={"input": "hi", "background": True})
    response_id = response.json()["id"]
    cancelled = (await workerless.http.post(f"{PATH}/{response_id}/cancel")).json()
    events = await follow(workerless, response_id)
    assert types(events) == ["created", "queued", "incomplete"]
    assert events[-1]["response"] == cancelled
    assert (cancelled["status"], cancelled["error"]) == ("cancelled", None)


async def test_log_probabilities_come_with_every_token(service: FakeService) -> None:
    """The echo worker scores no token, so the lists are empty, and no token is left out."""
    events = await create(service, include=["message.output_text.logprobs"])
    assert [event["logprobs"] for event in events if "delta" in event] == [
        [{"token": "!", "bytes": [33], "logprob": -9999.0, "top_logprobs": []}]
    ]


@pytest.mark.parametrize("background", [False, True])
async def test_a_disconnect_cancels_what_does_not_run_in_the_background(
    service: FakeService, background: bool
) -> None:
    service.worker.paused = True
    leave = asyncio.Event()
    body = {"input": "hi", "stream": True, "background": background}
    call = asyncio.create_task(abandoned_call(service.asgi, body, leave, path=PATH))
    await service.until(lambda: service.worker.seen)
    leave.set()
    await call
    job_id = service.worker.seen[0].id
    if not background:
        await service.until(lambda: service.worker.stopped == [job_id])
        return
    service.worker.paused = False
    events = await follow(service, f"resp_{job_id}", 1)
    assert types(events)[-1] == "completed" and service.worker.stopped == []


async def test_a_response_without_a_log_cannot_be_streamed(service: FakeService) -> None:
    response_id = (await service.http.post(PATH, json={"input": "hi"})).json()["id"]
    refused = await service.http.get(f"{PATH}/{response_id}", params={"stream": "true"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


async def test_the_end_of_the_server_is_no_event_of_the_response(service: FakeService) -> None:
    service.worker.paused = True
    body = IN_BACKGROUND
    call = asyncio.create_task(service.http.post(PATH, json=body))
    await service.until(lambda: service.worker.seen)
    service.services.stopping.set()
    last = (await call).text.split("\n\n")[-2]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert service.worker.seen[0].id in error["message"]


async def test_every_response_of_a_stream_is_openais_object(service: FakeService) -> None:
    for event in await create(service, background=True, instructions="be brief"):
        if "response" in event:
            Response.model_validate(event["response"])
