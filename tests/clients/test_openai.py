"""OpenAI's own client against a service: the same tokens as `/chat`, in OpenAI's form."""

from typing import Any

import httpx
import openai
import pytest

from tests.clients.openai_client import HELLO, MODEL, chat

pytestmark = pytest.mark.integration


def test_a_completion_has_the_tokens_of_chat(client: openai.OpenAI, url: str) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=9, temperature=0)
    expected = chat(url, "Hello", max_new_tokens=9)
    assert answer.choices[0].text == expected["sequences"][0]["text"]
    assert answer.choices[0].finish_reason == expected["sequences"][0]["finish_reason"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == expected["usage"]["total_tokens"]
    assert (answer.object, answer.model) == ("text_completion", MODEL)
    assert (answer.system_fingerprint or "").startswith("fp_")


def test_a_conversation_has_the_tokens_of_chat(client: openai.OpenAI, url: str) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=9, temperature=0.7, seed=4
    )
    sampled = {"do_sample": True, "temperature": 0.7, "seed": 4}
    expected = chat(url, max_new_tokens=9, **sampled)
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", expected["Result"])


def test_the_id_of_an_answer_finds_its_job(client: openai.OpenAI, url: str) -> None:
    raw = client.completions.with_raw_response.create(model=MODEL, prompt="Hello", max_tokens=2)
    answer = raw.parse()
    job_id = answer.id.removeprefix("cmpl-")
    assert raw.headers["location"] == f"/jobs/{job_id}"
    assert raw.request_id == job_id
    job = httpx.get(f"{url}/jobs/{job_id}", trust_env=False).json()
    assert job["status"] == "succeeded"
    assert job["result"]["sequences"][0]["text"] == answer.choices[0].text


def test_a_request_id_is_returned(client: openai.OpenAI) -> None:
    headers = {"x-request-id": "mine"}
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt="Hello", max_tokens=1, extra_headers=headers
    )
    assert raw.request_id == "mine"
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt="a", suffix="b", extra_headers=headers)
    assert error.value.request_id == "mine"


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_stream_of_a_conversation_adds_up_to_its_answer(
    client: openai.OpenAI, with_usage: bool
) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**request, n=2)
    chunks = [
        *client.chat.completions.create(
            **request, n=2, stream=True, stream_options={"include_usage": with_usage}
        )
    ]
    texts = {0: "", 1: ""}
    reasons = {}
    for chunk in chunks:
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert len({chunk.id for chunk in chunks}) == 1
    usage = chunks[-1].usage
    assert (usage is not None) == with_usage
    assert not with_usage or (usage and whole.usage and usage.total_tokens)


async def test_the_asynchronous_client_streams(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        request: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0}
        whole = await client.completions.create(**request, max_tokens=8)
        stream = await client.completions.create(**request, max_tokens=8, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == whole.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_have_several_jobs_and_one_answer(
    client: openai.OpenAI, url: str, stream: bool
) -> None:
    prompts = ["Hello", "Once upon a time", "The falcon"]
    request: dict[str, Any] = {"model": MODEL, "prompt": prompts, "temperature": 0}
    answer = client.completions.create(**request, max_tokens=5, stream=stream)
    texts = [""] * 3
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
        job_ids = part.job_ids
    assert texts == [
        chat(url, prompt, max_new_tokens=5)["sequences"][0]["text"] for prompt in prompts
    ]
    jobs = [httpx.get(f"{url}/jobs/{job_id}", trust_env=False).json() for job_id in job_ids]
    assert [job["result"]["sequences"][0]["text"] for job in jobs] == texts


def test_prompts_may_be_token_ids(client: openai.OpenAI, url: str) -> None:
    prompts = ["Hello", "Once upon a time"]
    ids = [chat(url, prompt, max_new_tokens=1)["prompt"]["token_ids"] for prompt in prompts]
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    by_text = client.completions.create(**request, prompt=prompts)
    by_ids = client.completions.create(**request, prompt=ids)
    assert [c.text for c in by_ids.choices] == [c.text for c in by_text.choices]
    one = client.completions.create(**request, prompt=ids[1], echo=True)
    assert one.choices[0].text == prompts[1] + by_text.choices[1].text


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"extra_body": {"temprature": 1}}, "temprature", "unknown_parameter"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"max_tokens": 10**6}, "max_tokens", "context_length_exceeded"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
        ({"n": 2, "temperature": 0}, "n", "invalid_value"),
        ({"prompt": [[1], [99999]]}, "prompt", "invalid_value"),
    ],
)
def test_a_refusal_names_the_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str, code: str
) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": "Hello"} | fields
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(**request)
    assert (error.value.param, error.value.code) == (param, code)
    assert error.value.type == "invalid_request_error"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.completions.create(model="gpt-4", prompt="Hello")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")
    assert MODEL in error.value.message
