"""Requests as guidellm 0.8, `vllm bench serve` 0.33 and aiperf 0.13 send them."""

import json
from typing import Any

import httpx
import pytest

from tests.clients.openai_client import HELLO, MODEL, WAIT_S, chat

pytestmark = pytest.mark.integration

NUM_NEW = 12
PROMPT = "Once upon a time"
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}
LAST = {"include_usage": True}
BODIES: dict[str, dict[str, Any]] = {
    "guidellm text": {
        "prompt": PROMPT,
        "stream_options": CONTINUOUS,
        "max_tokens": NUM_NEW,
        "stop": None,
        "ignore_eos": True,
    },
    "guidellm chat": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "stream_options": CONTINUOUS,
        "max_completion_tokens": NUM_NEW,
        "stop": None,
        "ignore_eos": True,
    },
    "vllm text": {
        "prompt": PROMPT,
        "repetition_penalty": 1.0,
        "max_tokens": NUM_NEW,
        "logprobs": None,
        "stream_options": LAST,
        "ignore_eos": True,
    },
    "vllm chat": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_completion_tokens": NUM_NEW,
        "stream_options": LAST,
        "ignore_eos": True,
    },
    "aiperf text": {
        "prompt": PROMPT,
        "max_tokens": NUM_NEW,
        "min_tokens": NUM_NEW,
        "ignore_eos": True,
        "stream_options": LAST,
    },
    "aiperf chat": {
        "messages": HELLO,
        "max_completion_tokens": NUM_NEW,
        "min_tokens": NUM_NEW,
        "stream_options": CONTINUOUS,
    },
}


def chunks_of(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Stream a request to the route of its body; return its chunks without `[DONE]`."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    body = {"model": MODEL, "stream": True} | body
    response = httpx.post(url + path, json=body, timeout=WAIT_S, trust_env=False)
    assert response.status_code == 200, response.text
    *lines, done = response.text.split("\n\n")[:-1]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("name", BODIES)
def test_every_generated_token_is_in_the_usage(url: str, name: str) -> None:
    *chunks, last = chunks_of(url, BODIES[name])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == NUM_NEW
    usages = [chunk["usage"] for chunk in chunks]
    if BODIES[name]["stream_options"] is LAST:
        assert usages == [None] * len(chunks)
        return
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts) and counts[-1] == NUM_NEW
    assert counts[0] <= 1 and len(set(counts)) > NUM_NEW // 2
    for usage in usages:
        assert usage["prompt_tokens"] == last["usage"]["prompt_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("extra", [{}, {"num_beams": 2, "temperature": 0, "n": 2}])
def test_each_choice_counts_its_own_tokens(url: str, extra: dict[str, Any]) -> None:
    prompts = [PROMPT, "Hello"]
    body = {"prompt": prompts, "n": 2, "max_tokens": 5, "seed": 1, "ignore_eos": True}
    *chunks, last = chunks_of(url, body | extra | {"stream_options": CONTINUOUS})
    finished = {
        choice["index"]: chunk["usage"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["finish_reason"]
    }
    assert {index: usage["completion_tokens"] for index, usage in finished.items()} == {
        index: 5 for index in range(4)
    }
    lengths = [chat(url, prompt, max_new_tokens=1)["usage"]["prompt_tokens"] for prompt in prompts]
    assert [finished[index]["prompt_tokens"] for index in range(4)] == [
        lengths[index // 2] for index in range(4)
    ]
    assert last["usage"]["completion_tokens"] == 20


def test_an_echo_without_new_tokens_counts_none(url: str) -> None:
    body = {"prompt": PROMPT, "echo": True, "max_tokens": 0, "stream_options": CONTINUOUS}
    *chunks, last = chunks_of(url, body)
    assert [chunk["usage"]["completion_tokens"] for chunk in [*chunks, last]] == [0] * (
        len(chunks) + 1
    )


def test_usage_in_every_chunk_needs_usage_in_the_last(url: str) -> None:
    options = {"continuous_usage_stats": True}
    body = {"model": MODEL, "prompt": PROMPT, "stream": True, "stream_options": options}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=WAIT_S, trust_env=False)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream_options.continuous_usage_stats"
