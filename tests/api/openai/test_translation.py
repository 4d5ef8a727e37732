"""Bodies of OpenAI's interface become requests of `/chat`, field by field."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from api.openai.completions.chat import ChatCompletionRequest
from api.openai.completions.completion import CompletionRequest
from api.openai.request import OpenAIRequest
from api.schemas import ChatRequest
from shared.errors import InvalidParameter
from shared.request.parameters import GenerateKwargs

HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatCompletionRequest:
    body = json.dumps({"messages": HI} | fields)
    request = ChatCompletionRequest.model_validate_json(body)
    request.check()
    return request


def completion(**fields: Any) -> CompletionRequest:
    body = json.dumps({"prompt": "hi"} | fields)
    request = CompletionRequest.model_validate_json(body)
    request.check()
    return request


def job(request: OpenAIRequest) -> ChatRequest:
    [one] = request.jobs()
    return one


def kwargs_of(request: OpenAIRequest) -> dict[str, Any]:
    """Return `generate_kwargs` without the fields that every request below `/v1` sets."""
    kwargs = job(request).generate_kwargs.model_dump(exclude_unset=True)
    for name in ("top_k", "include_stop_str_in_output", "logprobs_mode", "max_new_tokens"):
        if kwargs.get(name) in (0, False, "raw_logprobs", 16):
            del kwargs[name]
    return kwargs


def test_defaults_are_openais() -> None:
    kwargs = job(completion()).generate_kwargs
    assert (kwargs.do_sample, kwargs.temperature, kwargs.top_k, kwargs.top_p) == (True, 1.0, 0, 1.0)
    assert (kwargs.max_new_tokens, kwargs.include_stop_str_in_output) == (16, False)
    request = job(chat())
    assert request.fill_context and request.generate_kwargs.max_new_tokens is None
    assert not request.continue_final_message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, {"do_sample": False, "temperature": 0.0}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"top_k": -1}, {}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"n": 3, "seed": 8}, {"num_return_sequences": 3, "seed": 8}),
        ({"stop": "a"}, {"stop_strings": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop_strings": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"stop": None, "n": None, "logit_bias": None}, {}),
        ({"min_tokens": 2}, {"min_new_tokens": 2}),
        ({"ignore_eos": True}, {"eos_token_id": None}),
        ({"stop_token_ids": [4]}, {"stop_token_ids": [4]}),
        ({"logit_bias": {"5": -100}}, {"sequence_bias": [([5], -100.0)]}),
        (
            {"logit_bias": {"5": 1}, "sequence_bias": [[[1, 2], 3]]},
            {"sequence_bias": [([1, 2], 3.0), ([5], 1.0)]},
        ),
        ({"frequency_penalty": 1, "presence_penalty": -2}, {}),
        ({"logprobs_mode": "processed_logprobs"}, {"logprobs_mode": "processed_logprobs"}),
    ],
)
@pytest.mark.parametrize("make", [chat, completion])
def test_a_field_has_its_effect_on_the_job(
    make: Any, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    kwargs = kwargs_of(make(**fields))
    penalties = {k: float(v) for k, v in fields.items() if k.endswith("_penalty")}
    assert kwargs == {"do_sample": True} | expected | penalties


@pytest.mark.parametrize("name", sorted(GenerateKwargs.model_fields.keys() - {"top_k"}))
def test_every_parameter_of_generate_kwargs_is_a_field(name: str) -> None:
    examples: dict[str, Any] = {
        "bad_words_ids": [[1]],
        "sequence_bias": [[[1], 2.0]],
        "exponential_decay_length_penalty": [1, 1.5],
        "stop_strings": ["a"],
        "early_stopping": "never",
        "epsilon_cutoff": 0.5,
        "eta_cutoff": 0.5,
        "logprobs_mode": "processed_logprobs",
        "structured_outputs": {"json_object": True},
    }
    default = GenerateKwargs.model_fields[name].default
    value = examples.get(name, (not default) if isinstance(default, bool) else 1)
    sent = GenerateKwargs.model_validate({"do_sample": True, name: value})
    given = getattr(job(completion(**{name: value})).generate_kwargs, name)
    assert given == getattr(sent, name)


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ({}, 0),
        ({"priority": 3}, -3),
        ({"priority": -10}, 10),
        ({"service_tier": "flex"}, -5),
        ({"service_tier": "priority"}, 5),
        ({"service_tier": "auto"}, 0),
    ],
)
def test_priority_counts_as_in_vllm(fields: dict[str, Any], priority: int) -> None:
    assert job(chat(**fields)).priority == priority


def test_job_fields_are_passed_on() -> None:
    fields = {"model": "verse", "deadline_s": 5.5, "ttl_s": 60, "handle_long_generation": "hole"}
    request = job(completion(**fields, add_special_tokens=False))
    assert {name: getattr(request, name) for name in fields} == fields
    assert request.add_special_tokens is False and not request.return_full_text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [("a", None)]),
        (["a", "b"], [("a", None), ("b", None)]),
        ([1, 2.0], [(None, [1, 2])]),
        ([[1, 2], [3]], [(None, [1, 2]), (None, [3])]),
    ],
)
def test_each_prompt_becomes_a_job(prompt: Any, expected: list[Any]) -> None:
    jobs = completion(prompt=prompt).jobs()
    assert [(one.prompt, one.prompt_token_ids) for one in jobs] == expected


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], ["a", [1]], [[1], "a"], 5, {}])
def test_another_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(ValidationError) as error:
        completion(prompt=prompt)
    assert error.value.errors()[0]["loc"][0] == "prompt"


def test_logprobs_of_both_kinds_ask_for_scores() -> None:
    kwargs = kwargs_of(chat(logprobs=True, top_logprobs=4))
    assert (kwargs["output_scores"], kwargs["top_logprobs"]) == (True, 4)
    assert "top_logprobs" not in kwargs_of(chat(logprobs=True))
    kwargs = kwargs_of(completion(logprobs=0, echo=True))
    assert (kwargs["output_scores"], kwargs["prompt_logprobs"]) == (True, 0)
    assert "output_scores" not in kwargs_of(completion())


def test_a_developer_speaks_as_the_system() -> None:
    request = job(chat(messages=[{"role": "developer", "content": "be brief"}, *HI]))
    assert [message.role for message in request.messages or ()] == ["system", "user"]


@pytest.mark.parametrize(
    ("make", "fields", "field"),
    [
        (chat, {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        (completion, {"max_tokens": 1, "max_new_tokens": 2}, "max_tokens"),
        (chat, {"n": 1, "num_return_sequences": 2}, "n"),
        (chat, {"stop": "a", "stop_strings": ["b"]}, "stop"),
        (chat, {"priority": 1, "service_tier": "flex"}, "priority"),
        (chat, {"ignore_eos": True, "eos_token_id": 5}, "ignore_eos"),
        (chat, {"stream_options": {}}, "stream_options"),
        (chat, {"top_logprobs": 2}, "top_logprobs"),
        (chat, {"tools": [{}]}, "tools"),
        (chat, {"functions": [{}], "tool_choice": "none"}, "functions"),
        (completion, {"max_tokens": 0}, "max_tokens"),
        (completion, {"best_of": 1, "n": 2}, "best_of"),
        (completion, {"best_of": 3, "stream": True}, "best_of"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(
    make: Any, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParameter) as error:
        make(**fields)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 2, "temperature": 0}, "n"),
        ({"typical_p": 0, "temperature": 0.5}, "typical_p"),
        ({"temperature": 1e-9}, "temperature"),
        ({"stop_token_ids": [1], "num_beams": 2}, "stop_token_ids"),
    ],
)
def test_rules_between_parameters_name_the_field_of_the_request(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises((InvalidParameter, ValidationError)) as error:
        chat(**fields).jobs()
    found = error.value
    if isinstance(found, ValidationError):
        assert found.errors()[0]["loc"] == (field,)
    else:
        assert isinstance(found, InvalidParameter) and found.field == field


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "a"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {}}, "moderation"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {}}, "prompt_cache_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"bad_words": ["a"]}, "bad_words"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"chat_template": "a"}, "chat_template"),
    ],
)
def test_a_field_without_a_meaning_here_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ValidationError) as error:
        chat(**fields)
    first = error.value.errors()[0]
    assert (first["loc"][0], first["type"]) == (param, "unsupported")


def test_values_that_change_nothing_are_accepted() -> None:
    chat(
        modalities=["text"],
        response_format={"type": "text"},
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning_effort="none",
        prompt_cache_retention="in_memory",
        prompt_cache_key="k",
        safety_identifier="s",
        user="u",
        store=True,
        stream=True,
        stream_options={"include_obfuscation": False},
        skip_special_tokens=True,
        use_beam_search=False,
        tools=[],
        functions=[],
    )
    chat(tools=[{"type": "function"}], tool_choice="none")
