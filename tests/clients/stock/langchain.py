"""`langchain-openai`: its chat model and its completion model."""

import asyncio
from typing import Any

from tests.clients.stock.calls import MODEL, Calls, Target
from tests.clients.stock.chat import Wing

calls = Calls("langchain-openai")

CHAT, TEXT = "ChatOpenAI", "OpenAI"


def chat_model(target: Target, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    options = {"temperature": 0, "max_tokens": 6} | options
    return ChatOpenAI(
        base_url=f"{target.url}/v1", api_key="none", model=MODEL, max_retries=0, **options
    )


def text_model(target: Target, **options: Any) -> Any:
    from langchain_openai import OpenAI

    options = {"temperature": 0, "max_tokens": 6} | options
    return OpenAI(
        base_url=f"{target.url}/v1", api_key="none", model=MODEL, max_retries=0, **options
    )


@calls(CHAT, "`invoke`")
def invoke(target: Target) -> None:
    message = chat_model(target).invoke("Hello")
    job = target.get(f"/jobs/{message.response_metadata['id']}")
    assert message.content == job["result"]["Result"]
    assert message.usage_metadata["output_tokens"] == 6


@calls(CHAT, "`invoke` with a system message")
def system(target: Target) -> None:
    message = chat_model(target).invoke([("system", "Be brief"), ("human", "Hello")])
    assert message.response_metadata["finish_reason"] == "length"


@calls(CHAT, "`stream`")
def stream(target: Target) -> None:
    model = chat_model(target)
    assert "".join(chunk.content for chunk in model.stream("Hello")) == (
        model.invoke("Hello").content
    )


@calls(CHAT, "`stream` with `stream_usage`")
def stream_usage(target: Target) -> None:
    *_, last = (c for c in chat_model(target, stream_usage=True).stream("Hello"))
    total = [c.usage_metadata for c in chat_model(target, stream_usage=True).stream("Hello")]
    assert any(usage and usage["output_tokens"] == 6 for usage in total), last


@calls(CHAT, "`batch`")
def batch(target: Target) -> None:
    model = chat_model(target)
    messages = model.batch(["Hello", "Bye", "Hello"])
    assert messages[0].content == messages[2].content == model.invoke("Hello").content


@calls(CHAT, "`ainvoke` and `astream`")
def asynchronously(target: Target) -> None:
    async def call() -> None:
        model = chat_model(target)
        message = await model.ainvoke("Hello")
        text = "".join([chunk.content async for chunk in model.astream("Hello")])
        assert text == message.content

    asyncio.run(call())


@calls(CHAT, "`with_structured_output`, a pydantic model")
def structured(target: Target) -> None:
    model = chat_model(target, temperature=1.5, max_tokens=300, seed=1)
    wing = model.with_structured_output(Wing, method="json_schema").invoke("Hello")
    assert isinstance(wing, Wing)


@calls(CHAT, "`with_structured_output`, a JSON schema and the whole message")
def structured_raw(target: Target) -> None:
    model = chat_model(target, temperature=1.5, max_tokens=300, seed=1)
    schema = {"title": "wing"} | Wing.model_json_schema()
    answer = model.with_structured_output(schema, method="json_schema", include_raw=True).invoke(
        "Hello"
    )
    Wing.model_validate(answer["parsed"])
    assert answer["parsing_error"] is None


@calls(CHAT, "`logprobs`, `stop` and `seed`")
def options(target: Target) -> None:
    model = chat_model(target, temperature=1, seed=4, logprobs=True, top_logprobs=2)
    message = model.invoke("Hello", stop=["zzzz"])
    assert len(message.response_metadata["logprobs"]["content"]) == 6


@calls(CHAT, "`use_responses_api`: `invoke` and `stream`")
def responses_api(target: Target) -> None:
    model = chat_model(target, use_responses_api=True)
    message = model.invoke("Hello")
    assert message.text and message.text == "".join(c.text for c in model.stream("Hello"))


@calls(CHAT, "a refusal, which raises `BadRequestError`")
def refusal(target: Target) -> None:
    import openai
    import pytest

    with pytest.raises(openai.BadRequestError, match="top_p"):
        chat_model(target, top_p=7).invoke("Hello")


@calls(TEXT, "`invoke`")
def complete(target: Target) -> None:
    text = target.openai.completions.create(
        model=MODEL, prompt="Hello", temperature=0, max_tokens=6
    )
    assert text_model(target).invoke("Hello") == text.choices[0].text


@calls(TEXT, "`stream`")
def complete_stream(target: Target) -> None:
    model = text_model(target)
    assert "".join(model.stream("Hello")) == model.invoke("Hello")


@calls(TEXT, "`batch`, several prompts in one request")
def complete_batch(target: Target) -> None:
    model = text_model(target)
    assert model.batch(["Hello", "Bye"]) == [model.invoke("Hello"), model.invoke("Bye")]
