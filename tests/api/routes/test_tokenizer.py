"""`/tokenize`, `/detokenize`, `/tokenizer_info` and `/version`: errors, and no need of a worker."""

import asyncio
from typing import Any

import pytest

from api.jobs.tokenization import LONG_TEXT_CHARS
from shared.version import falconer_version
from tests.fakes_api import FakeService

EOS = 256


async def test_tokens_are_counted_without_a_job(service: FakeService) -> None:
    response = await service.http.post("/tokenize", json={"prompt": "hello"})
    body = response.json()
    assert (response.status_code, body["count"], body["max_model_len"]) == (200, 5, 2048)
    assert len(body["tokens"]) == 5 and body["token_strs"] is None
    text = await service.http.post("/detokenize", json={"tokens": body["tokens"]})
    assert text.json() == {"prompt": "hello"}
    assert service.worker.seen == []


async def test_the_last_model_answers_without_a_live_worker(service: FakeService) -> None:
    await service.stop_worker()
    assert (await service.http.post("/tokenize", json={"prompt": "a"})).json()["count"] == 1


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_without_a_model_the_answer_is_to_retry(workerless: FakeService, path: str) -> None:
    body: dict[str, Any] = {"prompt": "a"} if path == "/tokenize" else {"tokens": [1]}
    for response in (
        await workerless.http.post(path, json=body),
        await workerless.http.get("/tokenizer_info"),
    ):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0


async def test_a_conversation_is_rendered(service: FakeService) -> None:
    talk = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    lengths = []
    for fields in ({}, {"add_generation_prompt": False}):
        response = await service.http.post("/tokenize", json={"messages": talk} | fields)
        lengths.append(response.json()["count"])
    assert lengths[0] - lengths[1] == len("assistant:")
    assert lengths[1] == len("system: Be kind.\nuser: hi\n")


async def test_long_texts_leave_the_loop_to_other_requests(service: FakeService) -> None:
    long = {"prompt": "a" * (LONG_TEXT_CHARS + 1)}
    calls = [service.http.post("/tokenize", json=long) for _ in range(4)]
    counts = [response.json()["count"] for response in await asyncio.gather(*calls)]
    assert counts == [LONG_TEXT_CHARS + 1] * 4
    tokens = {"tokens": [EOS] * LONG_TEXT_CHARS}
    text = (await service.http.post("/detokenize", json=tokens)).json()["prompt"]
    assert text == "<|endoftext|>" * LONG_TEXT_CHARS


async def test_the_special_tokens_are_named(service: FakeService) -> None:
    info = (await service.http.get("/tokenizer_info")).json()
    assert {info[f"{name}_token"] for name in ("bos", "eos", "pad")} == {"<|endoftext|>"}
    assert "add_generation_prompt" in info["chat_template"]
    assert info["model_max_length"] == 2048


async def test_the_version_is_that_of_the_api(workerless: FakeService) -> None:
    assert (await workerless.http.get("/version")).json() == {"version": falconer_version()}


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/tokenize", {}, 422, "prompt: give either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": []}, 422, "messages: "),
        ("/tokenize", {"prompt": "a", "tools": [{}]}, 422, "tools: is not supported"),
        ("/tokenize", {"prompt": "a", "size": 1}, 422, "size: unknown parameter"),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}, 404, "model: no model 'gpt-4'"),
        ("/tokenize", {"messages": [{"role": "x", "content": "a"}]}, 400, "messages.0.role: "),
        (
            "/tokenize",
            {
                "messages": [{"role": "user", "content": "a"}],
                "add_generation_prompt": True,
                "continue_final_message": True,
            },
            422,
            "add_generation_prompt: must not be true together",
        ),
        ("/detokenize", {"tokens": [257]}, 422, "tokens: the tokenizer has no token 257"),
        ("/detokenize", {"tokens": [-1]}, 422, "tokens.0: "),
        ("/detokenize", {"tokens": [2**40]}, 422, "tokens.0: "),
        ("/detokenize", {"tokens": "a"}, 422, "tokens: "),
        ("/detokenize", {}, 422, "tokens: "),
    ],
)
async def test_a_refusal_names_the_field(
    service: FakeService, path: str, body: dict[str, Any], status: int, detail: str
) -> None:
    response = await service.http.post(path, json=body)
    assert (response.status_code, response.json()["detail"][: len(detail)]) == (status, detail)
