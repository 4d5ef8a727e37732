"""The `openai` package at `/v1/completions`."""

from typing import Any

import openai

from tests.clients.stock.calls import MODEL, Calls, Target, with_async_client

calls = Calls("openai")

GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 6}
TEXTS = ["Hello", "Once upon a time"]
METHOD = "completions.create"


def encoded(target: Target, text: str) -> list[int]:
    body = {"model": MODEL, "prompt": text}
    answer = target.openai.post("/../tokenize", body=body, cast_to=dict[str, Any])
    return list(answer["tokens"])


@calls(METHOD, "a text")
def text(target: Target) -> None:
    answer = target.openai.completions.create(**GREEDY, prompt=TEXTS[1])
    job = target.get(f"/jobs/{answer.id}")
    assert answer.choices[0].text == job["result"]["sequences"][0]["text"]
    assert answer.usage is not None and answer.usage.completion_tokens == 6
    assert answer.choices[0].finish_reason == "length"


@calls(METHOD, "several texts")
def several_texts(target: Target) -> None:
    create = target.openai.completions.create
    answer = create(**GREEDY, prompt=TEXTS)
    alone = [create(**GREEDY, prompt=text).choices[0].text for text in TEXTS]
    assert [choice.text for choice in answer.choices] == alone


@calls(METHOD, "token ids")
def token_ids(target: Target) -> None:
    create = target.openai.completions.create
    by_ids = create(**GREEDY, prompt=encoded(target, TEXTS[1]))
    assert by_ids.choices[0].text == create(**GREEDY, prompt=TEXTS[1]).choices[0].text


@calls(METHOD, "several lists of token ids")
def lists_of_token_ids(target: Target) -> None:
    create = target.openai.completions.create
    by_ids = create(**GREEDY, prompt=[encoded(target, text) for text in TEXTS])
    by_text = create(**GREEDY, prompt=TEXTS)
    assert [c.text for c in by_ids.choices] == [c.text for c in by_text.choices]


@calls(METHOD, "`n` and `best_of`")
def best_of(target: Target) -> None:
    answer = target.openai.completions.create(
        model=MODEL, prompt="Hello", n=2, best_of=4, max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None and answer.usage.completion_tokens == 16


@calls(METHOD, "`echo` with `logprobs`")
def echo(target: Target) -> None:
    answer = target.openai.completions.create(**GREEDY, prompt=TEXTS[1], echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text.startswith(TEXTS[1]) and choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    assert (choice.logprobs.token_logprobs or [0])[0] is None


@calls(METHOD, "`stop`")
def stop(target: Target) -> None:
    create = target.openai.completions.create
    whole = create(**GREEDY, prompt=TEXTS[1]).choices[0].text
    cut = create(**GREEDY, prompt=TEXTS[1], stop=[whole[3:5]]).choices[0]
    assert whole.startswith(cut.text) and whole[3:5] not in cut.text
    assert cut.finish_reason == "stop"


@calls(METHOD, "`logit_bias`")
def logit_bias(target: Target) -> None:
    [token_id, *_] = encoded(target, "a")
    answer = target.openai.completions.create(
        **GREEDY, prompt="Hello", logit_bias={str(token_id): 100}
    )
    assert answer.choices[0].text == "a" * 6


@calls(METHOD, "`seed` with penalties")
def seed(target: Target) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "max_tokens": 12, "seed": 5}
    penalties = {"presence_penalty": 1.0, "frequency_penalty": 0.5}
    create = target.openai.completions.create
    first, again = (create(**request, **penalties).choices[0].text for _ in range(2))
    assert first == again != create(**request | {"seed": 6}, **penalties).choices[0].text


@calls(METHOD, "vLLM's `min_tokens`, `ignore_eos` and `top_k`")
def extensions(target: Target) -> None:
    extra = {"min_tokens": 9, "ignore_eos": True, "top_k": 3}
    answer = target.openai.completions.create(
        model=MODEL, prompt="Hello", max_tokens=9, extra_body=extra
    )
    assert answer.usage is not None and answer.usage.completion_tokens == 9


@calls(METHOD, "`guided_choice`")
def guided_choice(target: Target) -> None:
    answer = target.openai.completions.create(
        model=MODEL, prompt="Hello", extra_body={"guided_choice": ["left", "right"]}
    )
    assert answer.choices[0].text in ("left", "right")


@calls(METHOD, "`service_tier` and `metadata`")
def metadata(target: Target) -> None:
    extra = {"metadata": {"run": "7"}, "service_tier": "flex"}
    answer = target.openai.completions.create(**GREEDY, prompt="Hello", extra_body=extra)
    assert answer.to_dict()["metadata"] == target.get(f"/jobs/{answer.id}")["metadata"]
    assert answer.to_dict()["service_tier"] == "flex"


@calls(METHOD, "`stream`")
def stream(target: Target) -> None:
    create = target.openai.completions.create
    chunks = list(create(**GREEDY, prompt=TEXTS[1], stream=True))
    whole = create(**GREEDY, prompt=TEXTS[1]).choices[0]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


@calls(METHOD, "`stream` of several texts with `include_usage`")
def stream_with_usage(target: Target) -> None:
    *chunks, last = target.openai.completions.create(
        **GREEDY, prompt=TEXTS, stream=True, stream_options={"include_usage": True}
    )
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    assert last.usage is not None and last.usage.completion_tokens == 12


@calls(METHOD, "a closed stream, which cancels its job")
def closed_stream(target: Target) -> None:
    request = GREEDY | {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}
    with target.openai.completions.create(**request, prompt="Hello", stream=True) as chunks:
        job_id = next(iter(chunks)).id
    job = target.get(f"/jobs/{job_id}", wait=60)
    assert job["status"] in ("cancelled", "succeeded"), job


@calls(METHOD, "asynchronously")
@with_async_client
async def asynchronously(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(**GREEDY, prompt="Hello")
    chunks = await client.completions.create(**GREEDY, prompt="Hello", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in chunks]) == answer.choices[0].text
