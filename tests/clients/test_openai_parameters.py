"""Parameters of OpenAI and vLLM, sent by OpenAI's client, against the results of `/chat`."""

from typing import Any

import openai
import pytest

from tests.clients.openai_client import HELLO, MODEL, chat

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_scores_the_prompt_as_generation_does(
    client: openai.OpenAI, stream: bool
) -> None:
    """Greedy tokens, sent back as a prompt, have the log-probabilities of their generation."""
    request: dict[str, Any] = {"model": MODEL, "temperature": 0, "logprobs": 2}
    generated = client.completions.create(**request, prompt="Once upon", max_tokens=9).choices[0]
    assert generated.logprobs is not None
    answer = client.completions.create(
        **request, prompt="Once upon" + generated.text, max_tokens=1, echo=True, stream=stream
    )
    tokens: list[str] = []
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    text = ""
    for part in answer if stream else [answer]:
        choice = part.choices[0]
        text += choice.text
        tokens += choice.logprobs.tokens
        logprobs += choice.logprobs.token_logprobs
        tops += choice.logprobs.top_logprobs
        offsets += choice.logprobs.text_offset
    assert "".join(tokens) == text
    assert (logprobs[0], tops[0]) == (None, None)
    assert tokens[2:-1] == generated.logprobs.tokens
    assert logprobs[2:-1] == pytest.approx(generated.logprobs.token_logprobs, abs=1e-4)
    assert [list(top or ()) for top in tops[2:-1]] == [
        list(top) for top in generated.logprobs.top_logprobs or ()
    ]
    assert [text[offset:].startswith(t) for offset, t in zip(offsets, tokens, strict=True)] == [
        True
    ] * len(tokens)


def test_echo_without_new_tokens_scores_the_prompt_alone(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1
    )
    choice = answer.choices[0]
    assert choice.text == "Once upon a time"
    assert choice.logprobs is not None and "".join(choice.logprobs.tokens or ()) == choice.text
    assert answer.usage is not None and answer.usage.completion_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_has_the_logprobs_of_chat(
    client: openai.OpenAI, url: str, stream: bool
) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=6,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        stream=stream,
    )
    parts = [part.choices[0] for part in (answer if stream else [answer])]
    content = [token for part in parts if part.logprobs for token in part.logprobs.content]
    expected = chat(url, max_new_tokens=6, output_scores=True, top_logprobs=3)["sequences"][0]
    assert "".join(token.token for token in content) == expected["text"]
    assert [token.logprob for token in content] == pytest.approx(expected["token_logprobs"])
    assert all(bytes(token.bytes).decode() == token.token for token in content)
    assert [[top.logprob for top in token.top_logprobs] for token in content] == [
        pytest.approx(list(top.values())) for top in expected["top_logprobs"]
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", ["small", ["xyz", "am a s"]])
def test_a_text_ends_before_a_stop_string(
    client: openai.OpenAI, url: str, stop: str | list[str], stream: bool
) -> None:
    whole = chat(url, "Hello", max_new_tokens=12)["sequences"][0]["text"]
    answer = client.completions.create(
        model=MODEL, prompt="Hello", max_tokens=12, temperature=0, stop=stop, stream=stream
    )
    parts = [part.choices[0] for part in (answer if stream else [answer])]
    last = stop if isinstance(stop, str) else stop[1]
    assert "".join(part.text for part in parts) == whole[: whole.index(last)]
    assert parts[-1].finish_reason == "stop"


def test_the_best_of_several_choices_are_the_likeliest(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": "The", "max_tokens": 6, "seed": 1}
    every = client.completions.create(**request, n=6, logprobs=0)
    best = client.completions.create(**request, n=2, best_of=6)
    means = {
        choice.text: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
        for choice in every.choices
        if choice.logprobs and choice.logprobs.token_logprobs
    }
    ranked = sorted((c.text for c in every.choices), key=means.__getitem__, reverse=True)
    assert [choice.text for choice in best.choices] == ranked[:2]
    assert best.usage and every.usage
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_a_bias_bans_and_forces_tokens(client: openai.OpenAI, url: str) -> None:
    first = chat(url, "Hello", max_new_tokens=1)["sequences"][0]["token_ids"][0]
    request: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0}
    banned = client.completions.create(**request, logit_bias={str(first): -100}, logprobs=1)
    forced = client.completions.create(**request, logit_bias={str(first): 100}, max_tokens=4)
    assert banned.choices[0].logprobs is not None and forced.choices[0].text
    assert banned.choices[0].text != chat(url, "Hello", max_new_tokens=16)["Result"]
    token = chat(url, "Hello", max_new_tokens=1)["Result"]
    assert forced.choices[0].text == token * 4


def test_extensions_of_vllm_and_of_generate_kwargs_are_extra_fields(
    client: openai.OpenAI, url: str
) -> None:
    ids = chat(url, "Hello", max_new_tokens=4)["sequences"][0]["token_ids"]
    request: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0}
    stopped = client.completions.create(
        **request, extra_body={"stop_token_ids": [ids[2]], "return_token_ids": True}
    )
    choice = stopped.choices[0]
    assert (choice.token_ids, choice.finish_reason) == (ids[:3], "stop")
    assert choice.prompt_token_ids == chat(url, "Hello", max_new_tokens=1)["prompt"]["token_ids"]
    beams = client.completions.create(
        **request, max_tokens=5, extra_body={"num_beams": 3, "num_return_sequences": 2}
    )
    expected = chat(url, "Hello", max_new_tokens=5, num_beams=3, num_return_sequences=2)
    assert [c.text for c in beams.choices] == [s["text"] for s in expected["sequences"]]


def test_scores_of_a_prompt_have_the_form_of_vllm(client: openai.OpenAI, url: str) -> None:
    extra = {"prompt_logprobs": 1, "return_token_ids": True}
    expected = chat(url, "Once upon a time", max_new_tokens=1, prompt_logprobs=1)["prompt"]
    text = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=1, extra_body=extra
    ).choices[0]
    conversation = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=1, extra_body=extra
    )
    for part in (text, conversation):
        assert part.prompt_logprobs[0] is None
        assert len(part.prompt_logprobs) == len(part.prompt_token_ids)
    scores = zip(expected["token_ids"][1:], expected["token_logprobs"], strict=True)
    for (token_id, logprob), entry in zip(scores, text.prompt_logprobs[1:], strict=True):
        assert entry[str(token_id)]["logprob"] == pytest.approx(logprob)
        assert 1 in [each["rank"] for each in entry.values()]
    decoded = [
        entry[str(token_id)]["decoded_token"]
        for token_id, entry in zip(text.prompt_token_ids[1:], text.prompt_logprobs[1:], strict=True)
    ]
    assert "Once upon a time".endswith("".join(decoded))


def test_a_prediction_changes_no_result(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 16, "seed": 5}
    plain = client.chat.completions.create(**request).choices[0].message.content or ""
    for text in (plain, "something else", plain[:10] + " other"):
        predicted = client.chat.completions.create(
            **request, prediction={"type": "content", "content": text}
        )
        assert predicted.choices[0].message.content == plain
        counts = predicted.usage and predicted.usage.completion_tokens_details
        assert counts is not None
        accepted, rejected = counts.accepted_prediction_tokens, counts.rejected_prediction_tokens
        assert (accepted, rejected) == ((accepted or 0), (rejected or 0))
        assert (accepted or 0) > 0 if text == plain else accepted in range(16)
