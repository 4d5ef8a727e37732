"""The `openai` package at `/v1/chat/completions` and `/v1/models`."""

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.clients.stock.calls import HELLO, MODEL, Calls, Target, with_async_client

calls = Calls("openai")

GREEDY: dict[str, Any] = {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 6}
HOT: dict[str, Any] = {"model": MODEL, "messages": HELLO, "temperature": 1.5, "seed": 1}
CREATE, PARSE, STREAM = (f"chat.completions.{name}" for name in ("create", "parse", "stream"))


class Wing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: Literal["left", "right"]
    feathers: int = Field(ge=0, le=40)


SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "wing", "strict": True, "schema": Wing.model_json_schema()},
}


def content(target: Target, **changes: Any) -> str:
    answer = target.openai.chat.completions.create(**GREEDY | changes)
    return answer.choices[0].message.content or ""


@calls(CREATE, "a conversation")
def conversation(target: Target) -> None:
    answer = target.openai.chat.completions.create(**GREEDY)
    job = target.get(f"/jobs/{answer.id}")
    assert answer.choices[0].message.content == job["result"]["Result"]
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None


@calls(CREATE, "the roles `system` and `developer`")
def roles(target: Target) -> None:
    texts = [
        content(target, messages=[{"role": role, "content": "Be brief"}, *HELLO])
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1]


@calls(CREATE, "parts of text")
def parts(target: Target) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
    assert content(target, messages=[message]) == content(target)


@calls(CREATE, "several turns")
def turns(target: Target) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]
    one = target.openai.chat.completions.create(**GREEDY).usage
    several = target.openai.chat.completions.create(**GREEDY | {"messages": turns}).usage
    assert one is not None and several is not None
    assert several.prompt_tokens > one.prompt_tokens


@calls(CREATE, "`n` and `seed`")
def several_choices(target: Target) -> None:
    create = target.openai.chat.completions.create
    first, again = (create(**HOT, n=3, max_tokens=6).choices for _ in range(2))
    assert len({choice.message.content for choice in first}) > 1
    assert first == again


@calls(CREATE, "`logprobs` and `top_logprobs`")
def logprobs(target: Target) -> None:
    answer = target.openai.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    scores = answer.choices[0].logprobs
    assert scores is not None and scores.content is not None
    assert "".join(entry.token for entry in scores.content) == answer.choices[0].message.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in scores.content)


@calls(CREATE, "`max_completion_tokens`")
def max_completion_tokens(target: Target) -> None:
    request = {name: value for name, value in GREEDY.items() if name != "max_tokens"}
    answer = target.openai.chat.completions.create(**request, max_completion_tokens=4)
    assert answer.usage is not None and answer.usage.completion_tokens == 4


@calls(CREATE, "`stop`")
def stop(target: Target) -> None:
    whole = content(target)
    assert content(target, stop=whole[2:4]) == whole[: whole.index(whole[2:4])]


@calls(CREATE, "`prediction`")
def prediction(target: Target) -> None:
    whole = content(target)
    answer = target.openai.chat.completions.create(
        **GREEDY, prediction={"type": "content", "content": whole}
    )
    assert answer.choices[0].message.content == whole
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens is not None


@calls(CREATE, "`response_format` with a JSON schema")
def json_schema(target: Target) -> None:
    answer = target.openai.chat.completions.create(**HOT, response_format=SCHEMA)
    Wing.model_validate_json(answer.choices[0].message.content or "")


@calls(CREATE, "`response_format` with a JSON object")
def json_object(target: Target) -> None:
    answer = target.openai.chat.completions.create(
        **HOT, response_format={"type": "json_object"}, max_tokens=80
    )
    choice = answer.choices[0]
    text = choice.message.content or ""
    assert text.startswith("{")
    assert choice.finish_reason == "length" or isinstance(json.loads(text), dict)


@calls(CREATE, '`tools` with `tool_choice: "none"`')
def tools(target: Target) -> None:
    tool = {"type": "function", "function": {"name": "fly", "parameters": {}}}
    assert content(target, tools=[tool], tool_choice="none") == content(target)


@calls(CREATE, "`metadata`, `user`, `store` and `service_tier`")
def attributes(target: Target) -> None:
    answer = target.openai.chat.completions.create(
        **GREEDY, metadata={"run": "7"}, user="u", store=False, service_tier="priority"
    )
    assert answer.service_tier == "priority"
    assert target.get(f"/jobs/{answer.id}")["metadata"] == {"run": "7"}


@calls(CREATE, "`stream`")
def stream(target: Target) -> None:
    chunks = list(target.openai.chat.completions.create(**GREEDY, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == content(target)


@calls(CREATE, "`stream` with `include_usage`")
def stream_with_usage(target: Target) -> None:
    *_, last = target.openai.chat.completions.create(
        **GREEDY, stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None and last.usage.completion_tokens == 6


@calls(CREATE, "asynchronously, eight at once")
@with_async_client
async def asynchronously(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    answers = await asyncio.gather(*(create(**GREEDY) for _ in range(8)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert len({answer.id for answer in answers}) == 8


@calls(CREATE, "asynchronously with `stream`")
@with_async_client
async def asynchronous_stream(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**GREEDY)
    chunks = await client.chat.completions.create(**GREEDY, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    assert text == whole.choices[0].message.content


@calls(PARSE, "a pydantic model")
def parse(target: Target) -> None:
    answer = target.openai.chat.completions.parse(**HOT, response_format=Wing, n=2)
    assert all(isinstance(choice.message.parsed, Wing) for choice in answer.choices)


@calls(PARSE, "asynchronously")
@with_async_client
async def parse_asynchronously(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(**HOT, response_format=Wing)
    assert isinstance(answer.choices[0].message.parsed, Wing)


@calls(PARSE, "a cut text, which raises `LengthFinishReasonError`")
def parse_cut_text(target: Target) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        target.openai.chat.completions.parse(**HOT, response_format=Wing, max_tokens=3)


@calls(STREAM, "events of the text")
def stream_helper(target: Target) -> None:
    ending = content(target)[2:4]  # the helper raises an error for a text that is cut
    with target.openai.chat.completions.stream(**GREEDY, stop=ending) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        final = events.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


@calls(STREAM, "a pydantic model")
def stream_parsed(target: Target) -> None:
    with target.openai.chat.completions.stream(**HOT, response_format=Wing) as events:
        final = events.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Wing)


@calls("models.list", "all models")
def models(target: Target) -> None:
    assert MODEL in [model.id for model in target.openai.models.list()]


@calls("models.retrieve", "a model by its name")
def model(target: Target) -> None:
    found = target.openai.models.retrieve(MODEL)
    assert (found.id, found.object) == (MODEL, "model")
    assert found.created > 0 and found.to_dict()["max_model_len"]


@calls("models.retrieve", "an unknown name, which raises `NotFoundError`")
def unknown_model(target: Target) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        target.openai.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"
