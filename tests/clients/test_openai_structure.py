"""Structured outputs asked for by OpenAI's client, on a service with the bundled model."""

import json
import re
from typing import Any, Literal

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from tests.clients.openai_client import HELLO, MODEL

pytestmark = pytest.mark.integration

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["falcon", "kite"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
HOT: dict[str, Any] = {"temperature": 1.5, "max_tokens": 300}


class Wing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: Literal["left", "right"]
    feathers: int = Field(ge=0, le=40)


class Bird(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wings: list[Wing] = Field(max_length=2)
    is_red: bool


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_response_format_gives_json_that_is_valid(
    client: openai.OpenAI, seed: int, stream: bool
) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        seed=seed,
        stream=stream,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "bird", "schema": SCHEMA, "strict": True},
        },
        **HOT,
    )
    choices = [part.choices[0] for part in (answer if stream else [answer])]
    assert choices[-1].finish_reason == "stop"
    parts = [choice.delta if stream else choice.message for choice in choices]
    text = "".join(part.content or "" for part in parts)
    Draft202012Validator(SCHEMA).validate(json.loads(text))


def test_the_client_parses_answers_to_its_own_models(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=HELLO, response_format=Bird, n=3, seed=1, **HOT
    )
    for choice in answer.choices:
        assert isinstance(choice.message.parsed, Bird)


def test_a_json_object_is_an_object(client: openai.OpenAI) -> None:
    """Its strings have no bound, so a short answer may be cut."""
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=100,
        temperature=0.2,
        seed=1,
        response_format={"type": "json_object"},
    )
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    assert answer.choices[0].finish_reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'root ::= ("ab" | "c"){2,3}'}, "(ab|c){2,3}"),
        ({"guided_json": {"enum": [1, "a"]}}, '1|"a"'),
        ({"structured_outputs": {"regex": "x{2,5}"}}, "x{2,5}"),
    ],
)
def test_extensions_of_vllm_work_in_both_routes(
    client: openai.OpenAI, extra: dict[str, Any], pattern: str
) -> None:
    text = client.completions.create(
        model=MODEL, prompt=["Hello", "Bye"], n=2, best_of=3, seed=2, extra_body=extra, **HOT
    )
    chat = client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body=extra, logprobs=True, **HOT
    )
    texts = [choice.text for choice in text.choices]
    texts += [choice.message.content or "" for choice in chat.choices]
    assert len(texts) == 5
    assert all(re.fullmatch(pattern, text) for text in texts), texts


def test_chat_takes_the_same_structure(url: str) -> None:
    kwargs = {"structured_outputs": {"json": SCHEMA}, "max_new_tokens": 300, "num_beams": 2}
    body = {"prompt": "Hello", "return_full_text": False, "generate_kwargs": kwargs}
    response = httpx.post(f"{url}/chat", json=body, timeout=120, trust_env=False)
    [sequence] = response.json()["sequences"]
    assert sequence["finish_reason"] == "stop"
    Draft202012Validator(SCHEMA).validate(json.loads(sequence["text"]))


def test_a_schema_that_cannot_be_enforced_is_refused_by_name(client: openai.OpenAI) -> None:
    schema = {"type": "array", "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as error:
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": schema},
            },
        )
    assert error.value.param == "response_format"


def test_parameters_that_ban_the_structure_fail_the_request_alone(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="ban every token of the grammar"):
        client.completions.create(
            model=MODEL,
            prompt="Hello",
            max_tokens=30,
            extra_body={"guided_choice": ["yes"], "min_tokens": 20},
        )
