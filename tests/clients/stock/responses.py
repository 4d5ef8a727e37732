"""The `openai` package at `/v1/responses`."""

from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.clients.stock.calls import HELLO, MODEL, Calls, Target, with_async_client
from tests.clients.stock.chat import Wing

calls = Calls("openai")

GREEDY: dict[str, Any] = {
    "model": MODEL,
    "input": "Hello",
    "temperature": 0,
    "max_output_tokens": 6,
}
HOT: dict[str, Any] = {"model": MODEL, "input": "Hello", "temperature": 1.5}
CREATE, RETRIEVE = "responses.create", "responses.retrieve"


def ended(target: Target, response: Response) -> Response:
    target.get(f"/jobs/{response.id}", wait=60)
    return target.openai.responses.retrieve(response.id)


@calls(CREATE, "a text")
def text(target: Target) -> None:
    response = target.openai.responses.create(**GREEDY)
    assert response.output_text == target.get(f"/jobs/{response.id}")["result"]["Result"]
    assert response.usage is not None and response.usage.output_tokens == 6
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@calls(CREATE, "input items")
def items(target: Target) -> None:
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    texts = {
        target.openai.responses.create(**GREEDY | {"input": one}).output_text
        for one in ("Hello", HELLO, parts)
    }
    assert len(texts) == 1


@calls(CREATE, "`instructions`")
def instructions(target: Target) -> None:
    create = target.openai.responses.create
    plain, instructed = create(**GREEDY), create(**GREEDY, instructions="Be brief")
    assert plain.usage is not None and instructed.usage is not None
    assert instructed.usage.input_tokens > plain.usage.input_tokens
    assert instructed.instructions == "Be brief"


@calls(CREATE, "`previous_response_id`")
def conversation(target: Target) -> None:
    first = target.openai.responses.create(**GREEDY)
    second = target.openai.responses.create(**GREEDY, previous_response_id=first.id)
    listed = target.openai.responses.input_items.list(second.id, order="asc")
    assert [item.content[0].text for item in listed] == ["Hello", first.output_text, "Hello"]


@calls(CREATE, "`text.format` with a JSON schema")
def text_format(target: Target) -> None:
    form: Any = {"type": "json_schema", "name": "wing", "schema": Wing.model_json_schema()}
    response = target.openai.responses.create(**HOT, text={"format": form})
    Wing.model_validate_json(response.output_text)


@calls(CREATE, "`top_logprobs` with `include`")
def logprobs(target: Target) -> None:
    response = target.openai.responses.create(
        **GREEDY, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    entries = response.output[0].content[0].logprobs
    assert "".join(entry.token for entry in entries) == response.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


@calls(CREATE, "`metadata` and `store: false`")
def attributes(target: Target) -> None:
    response = target.openai.responses.create(**GREEDY, metadata={"run": "7"}, store=False)
    assert (response.metadata, response.store) == ({"run": "7"}, False)
    with pytest.raises(openai.NotFoundError):
        target.openai.responses.retrieve(response.id)


@calls(CREATE, "`stream`")
def stream(target: Target) -> None:
    events = list(target.openai.responses.create(**GREEDY, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == target.openai.responses.create(**GREEDY).output_text
    assert events[-1].type == "response.incomplete"


@calls(CREATE, "`background`")
def background(target: Target) -> None:
    response = target.openai.responses.create(**GREEDY, background=True)
    assert response.status in ("queued", "in_progress") and response.background
    assert ended(target, response).output_text == (
        target.openai.responses.create(**GREEDY).output_text
    )


@calls(CREATE, "`background` with `completion_window`")
def completion_window(target: Target) -> None:
    response = target.openai.responses.create(
        **GREEDY, background=True, background_options={"completion_window": "2h"}
    )
    assert ended(target, response).status == "incomplete"


@calls(CREATE, "asynchronously")
@with_async_client
async def asynchronously(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(**GREEDY)
    assert (await client.responses.retrieve(response.id)).output_text == response.output_text


@calls("responses.stream", "events of the text")
def stream_helper(target: Target) -> None:
    ending = target.openai.responses.create(**GREEDY).output_text[2:4]
    stops = {"stop": ending}  # the helper raises an error for a response that is incomplete
    with target.openai.responses.stream(**GREEDY, extra_body=stops) as events:
        snapshots = [e.snapshot for e in events if e.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert snapshots[-1] == final.output_text


@calls("responses.parse", "a pydantic model")
def parse(target: Target) -> None:
    response = target.openai.responses.parse(**HOT, text_format=Wing)
    assert isinstance(response.output_parsed, Wing)


@calls(RETRIEVE, "a response in the background, resumed by `starting_after`")
def resume(target: Target) -> None:
    events = list(target.openai.responses.create(**GREEDY, background=True, stream=True))
    response_id = events[0].response.id
    rest = target.openai.responses.retrieve(response_id, stream=True, starting_after=5)
    assert list(rest) == events[6:]


@calls(RETRIEVE, "a stream, asynchronously")
@with_async_client
async def resume_asynchronously(client: openai.AsyncOpenAI) -> None:
    created = await client.responses.create(**GREEDY, background=True, stream=True)
    events = [event async for event in created]
    response_id = events[0].response.id
    again = await client.responses.retrieve(response_id, stream=True)
    assert [event async for event in again] == events


@calls(RETRIEVE, "an unknown id, which raises `NotFoundError`")
def unknown(target: Target) -> None:
    with pytest.raises(openai.NotFoundError):
        target.openai.responses.retrieve("resp_0")


@calls("responses.cancel", "twice")
def cancel(target: Target) -> None:
    long = GREEDY | {"max_output_tokens": 1900, "extra_body": {"ignore_eos": True}}
    response = target.openai.responses.create(**long, background=True)
    first = target.openai.responses.cancel(response.id)
    assert first.status in ("cancelled", "incomplete")  # a fast worker may have ended it
    assert target.openai.responses.cancel(response.id).status == first.status


@calls("responses.delete", "a response with its job")
def delete(target: Target) -> None:
    response = target.openai.responses.create(**GREEDY)
    target.openai.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        target.openai.responses.retrieve(response.id)


@calls("responses.input_items.list", "in pages")
def input_items(target: Target) -> None:
    messages = [{"role": "user", "content": f"Hello {number}"} for number in range(5)]
    response = target.openai.responses.create(**GREEDY | {"input": messages})
    listed = target.openai.responses.input_items.list(response.id, limit=2, order="asc")
    assert [item.content[0].text for item in listed] == [m["content"] for m in messages]


@calls("responses.input_tokens.count", "a text")
def input_tokens(target: Target) -> None:
    count = target.openai.responses.input_tokens.count(model=MODEL, input="Hello")
    usage = target.openai.responses.create(**GREEDY).usage
    assert usage is not None and count.input_tokens == usage.input_tokens
