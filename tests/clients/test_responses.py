"""OpenAI's own client at `/v1/responses`: the same tokens as `/v1/chat/completions`."""

from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from tests.clients.openai_client import HELLO, MODEL, WAIT_S, chat

pytestmark = pytest.mark.integration

GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}


def poll(client: openai.OpenAI, response: Response) -> Response:
    """Return the response once it has ended."""
    url = f"{str(client.base_url).removesuffix('/v1/')}/jobs/{response.id}"
    httpx.get(url, params={"wait": WAIT_S}, timeout=2 * WAIT_S, trust_env=False)
    return client.responses.retrieve(response.id)


def test_a_response_has_the_tokens_of_chat(client: openai.OpenAI, url: str) -> None:
    response = client.responses.create(**GREEDY, input="Hello", max_output_tokens=9)
    expected = chat(url, max_new_tokens=9)
    assert response.output_text == expected["Result"]
    assert (response.object, response.model) == ("response", MODEL)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.total_tokens == expected["usage"]["total_tokens"]


def test_a_response_that_ends_by_itself_is_complete(client: openai.OpenAI, url: str) -> None:
    first = chat(url, max_new_tokens=3)["sequences"][0]["token_ids"][2]
    response = client.responses.create(
        **GREEDY, input=HELLO, extra_body={"stop_token_ids": [first]}
    )
    assert (response.status, response.output[0].status) == ("completed", "completed")
    assert response.completed_at is not None and response.completed_at >= response.created_at


def test_the_streaming_helper_of_the_sdk_adds_up_to_the_response(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "input": "Hello", "max_output_tokens": 12}
    seeded = {"seed": 3}
    whole = client.responses.create(**request, extra_body=seeded)
    with client.responses.stream(**request, extra_body=seeded) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text


async def test_the_asynchronous_client_polls_a_response_in_the_background(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        request: dict[str, Any] = {**GREEDY, "input": "Hello", "max_output_tokens": 8}
        whole = await client.responses.create(**request)
        response = await client.responses.create(
            **request, background=True, background_options={"completion_window": "2h"}
        )
        assert response.status == "queued" and response.background
        while response.status in ("queued", "in_progress"):
            response = await client.responses.retrieve(response.id)
        assert response.output_text == whole.output_text
        text = ""
        resumed = await client.responses.retrieve(response.id, stream=True, starting_after=4)
        async for event in resumed:
            if event.type == "response.output_text.delta":
                text += event.delta
        assert text == whole.output_text


def test_a_stream_resumes_after_each_of_its_events(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(
            model=MODEL, input="Hello", max_output_tokens=6, background=True, stream=True
        )
    )
    response_id = events[0].response.id
    for after in range(len(events)):
        rest = client.responses.retrieve(response_id, stream=True, starting_after=after)
        assert list(rest) == events[after + 1 :]


def test_turns_by_previous_response_id_continue_one_conversation(
    client: openai.OpenAI,
) -> None:
    messages: list[dict[str, str]] = []
    previous: str | None = None
    for text in ("Hello", "What is a falcon?", "And an owl?"):
        response = client.responses.create(
            **GREEDY, input=text, max_output_tokens=7, previous_response_id=previous
        )
        messages.append({"role": "user", "content": text})
        answer = client.chat.completions.create(**GREEDY, messages=messages, max_tokens=7)
        content = answer.choices[0].message.content
        assert response.output_text == content
        assert response.usage and answer.usage
        assert response.usage.input_tokens == answer.usage.prompt_tokens
        count = client.responses.input_tokens.count(
            model=MODEL, input=text, previous_response_id=previous
        )
        assert count.input_tokens == response.usage.input_tokens
        messages.append({"role": "assistant", "content": str(content)})
        previous = response.id
    assert previous is not None
    items = list(client.responses.input_items.list(previous, order="asc", limit=2))
    assert [item.content[0].text for item in items] == [m["content"] for m in messages[:-1]]


def test_output_sent_back_as_input_continues_the_conversation(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {**GREEDY, "max_output_tokens": 7}
    first = client.responses.create(**request, input="Hello", top_logprobs=2)
    again = {"role": "user", "content": [{"type": "input_text", "text": "Again"}]}
    items = [{"role": "user", "content": "Hello"}, *first.output, again]
    by_items = client.responses.create(**request, input=items)
    by_id = client.responses.create(**request, input=[again], previous_response_id=first.id)
    assert by_items.output_text == by_id.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_agree_with_chat(client: openai.OpenAI, url: str, stream: bool) -> None:
    created = client.responses.create(
        **GREEDY,
        input="Hello",
        max_output_tokens=6,
        top_logprobs=3,
        include=["message.output_text.logprobs"],
        stream=stream,
    )
    deltas: list[Any] = []
    response = created
    for event in created if stream else ():
        if event.type == "response.output_text.delta":
            deltas += event.logprobs
        response = getattr(event, "response", response)
    logprobs = response.output[0].content[0].logprobs
    assert not stream or [entry.logprob for entry in deltas] == [e.logprob for e in logprobs]
    include = ["message.output_text.logprobs"]
    if stream:
        assert client.responses.retrieve(response.id, include=include) == response
    expected = chat(url, max_new_tokens=6, output_scores=True, top_logprobs=3)["sequences"][0]
    assert "".join(entry.token for entry in logprobs) == expected["text"]
    assert [entry.logprob for entry in logprobs] == pytest.approx(expected["token_logprobs"])
    assert all(len(entry.top_logprobs) == 3 for entry in logprobs)


@pytest.mark.parametrize("extra", [{"n": 2, "seed": 4}, {"num_beams": 3, "n": 2}])
def test_several_texts_are_several_messages(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    request: dict[str, Any] = {"model": MODEL, "input": "Hello", "max_output_tokens": 6}
    whole = client.responses.create(**request, extra_body=extra)
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=6, extra_body=extra
    )
    texts = ["", ""]
    for event in client.responses.create(**request, extra_body=extra, stream=True):
        if event.type == "response.output_text.delta":
            texts[event.output_index] += event.delta
    if "seed" in extra:
        assert texts == [message.content[0].text for message in whole.output]
        assert texts == [choice.message.content for choice in answer.choices]
    assert len(whole.output) == 2 and all(texts)


class Wing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: Literal["left", "right"]
    feathers: int = Field(ge=0, le=40)


@pytest.mark.parametrize("seed", range(3))
def test_a_text_follows_its_format(client: openai.OpenAI, seed: int) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "input": "Hello",
        "text_format": Wing,
        "temperature": 1.5,
        "max_output_tokens": 300,
        "extra_body": {"seed": seed},
    }
    response = client.responses.parse(**request)
    assert isinstance(response.output_parsed, Wing)
    with client.responses.stream(**request) as stream:
        assert stream.get_final_response().output_parsed == response.output_parsed
    form = client.responses.retrieve(response.id).text
    assert form is not None and form.format is not None and form.format.type == "json_schema"


def test_a_format_that_is_no_schema_is_refused_by_name(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "name": "n", "schema": {"type": "bird"}}
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=MODEL, input="Hello", text={"format": form})
    assert error.value.param == "text.format.schema"


def test_a_response_is_cancelled_and_deleted(client: openai.OpenAI, url: str) -> None:
    response = client.responses.create(
        model=MODEL, input="Hello", background=True, extra_body={"ignore_eos": True}
    )
    ended = client.responses.cancel(response.id)
    assert ended.status in ("cancelled", "incomplete")  # a fast worker may have ended it
    assert client.responses.cancel(response.id).status == ended.status
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    assert httpx.get(f"{url}/jobs/{response.id}", trust_env=False).status_code == 404


def test_refusals_are_errors_of_the_sdk(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=MODEL, input="Hello", tools=[{"type": "web_search"}])
    assert (error.value.param, error.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=MODEL, input="Hello", previous_response_id="resp_0")
    assert error.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-4", input="Hello")
    assert missing.value.code == "model_not_found"


def test_a_polled_response_has_the_text_of_its_job(client: openai.OpenAI, url: str) -> None:
    response = poll(
        client, client.responses.create(**GREEDY, input="Hello", background=True, store=False)
    )
    job = httpx.get(f"{url}/jobs/{response.id}", trust_env=False).json()
    assert response.output_text == job["result"]["Result"]
    assert response.store is False
