"""Bodies of `/v1/responses` become jobs, field by field."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from api.openai.responses.request import ResponseRequest
from api.schemas import ChatRequest
from shared.errors import InvalidParameter
from tests.api.openai.test_translation import chat, kwargs_of
from tests.api.openai.test_translation import job as only_job


def response(**fields: Any) -> ResponseRequest:
    request = ResponseRequest.model_validate_json(json.dumps({"input": "hi"} | fields))
    request.check()
    return request


def job(**fields: Any) -> ChatRequest:
    return response(**fields).job(())


def roles_and_texts(request: ChatRequest) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request.messages or ()]


def test_a_text_becomes_the_job_of_a_conversation() -> None:
    """It is the job of the same request to `/v1/chat/completions`."""
    request = job(temperature=0.5, max_output_tokens=7, user="u", metadata={"a": "b"})
    expected = only_job(chat(temperature=0.5, max_tokens=7, metadata={"a": "b"}))
    assert request.model_dump(exclude_unset=True) == expected.model_dump(exclude_unset=True)
    assert job().fill_context and not request.fill_context


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"role": "user", "content": "a"}, ("user", "a")),
        ({"type": "message", "role": "developer", "content": "a"}, ("system", "a")),
        (
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_text", "text": "b"},
                ],
            },
            ("user", "ab"),
        ),
        (
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "phase": None,
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
                ],
            },
            ("assistant", "a"),
        ),
    ],
)
def test_every_kind_of_message_is_an_item(item: Any, expected: tuple[str, str]) -> None:
    request = job(input=[item, {"role": "user", "content": "hi"}], instructions="be brief")
    assert roles_and_texts(request) == [("system", "be brief"), expected, ("user", "hi")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top_logprobs": 2}, {"output_scores": True, "top_logprobs": 2}),
        ({"top_logprobs": 0}, {}),
        ({"include": ["message.output_text.logprobs"]}, {"output_scores": True}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
        ({"num_beams": 3, "temperature": 0}, {"num_beams": 3, "do_sample": False}),
        ({"stop": "a", "seed": 3}, {"stop_strings": ["a"], "seed": 3}),
    ],
)
def test_parameters_have_the_names_of_chat_completions(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    kwargs = kwargs_of(response(**fields))
    given = {name: kwargs[name] for name in expected}
    assert given == expected
    assert ("top_logprobs" in expected) is (kwargs.get("top_logprobs") is not None)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"json_object": True}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "null"}, "strict": True},
            {"json": '{"type": "null"}'},
        ),
    ],
)
def test_a_format_of_the_text_is_a_structured_output(form: Any, expected: Any) -> None:
    request = response(text={"format": form})
    assert kwargs_of(request).get("structured_outputs") == expected
    assert request.text.format.shown() == form


@pytest.mark.parametrize(
    ("window", "seconds"),
    [("soonest", None), ("90s", 90), ("30m", 1800), ("2h", 7200), ("8h", 28800), ("1d", 86400)],
)
def test_a_completion_window_is_a_deadline(window: str, seconds: float | None) -> None:
    options = {"completion_window": window, "continuation_id": "c"}
    assert job(background=True, background_options=options).deadline_s == seconds


def test_truncation_drops_the_start_of_a_conversation() -> None:
    assert job(truncation="auto").handle_long_generation == "hole"
    assert job(truncation="disabled").handle_long_generation is None


def test_a_response_that_is_not_stored_expires_after_ten_minutes() -> None:
    assert job(store=False).ttl_s == 600
    assert job(store=False, ttl_s=5).ttl_s == 5
    assert response(store=False).job((), unstored_ttl_s=60).ttl_s == 60
    assert job(store=True).ttl_s is None
    assert response(store=False, background=True).is_kept
    assert not response(store=False).is_kept


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"access_programs": {"cyber": "standard"}}, "access_programs"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"image": {}}, "image"),
        ({"max_tool_calls": 2}, "max_tool_calls"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"prompt_cache_options": {}}, "prompt_cache_options"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream": True, "stream_options": {"include_usage": False}}, "stream_options"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content.0.type",
        ),
    ],
)
def test_a_field_without_a_meaning_here_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ValidationError) as error:
        response(**fields)
    first = error.value.errors()[0]
    assert ".".join(map(str, first["loc"])).startswith(param)
    assert first["type"] == "unsupported"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"background_options": {}}, "background_options"),
        (
            {"background": True, "background_options": {"completion_window": "25h"}},
            "background_options.completion_window",
        ),
        (
            {
                "background": True,
                "background_options": {"completion_window": "2h"},
                "deadline_s": 5,
            },
            "background_options.completion_window",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
        (
            {"text": {"format": {"type": "json_object"}}, "guided_regex": "a"},
            "text.format",
        ),
        ({"truncation": "auto", "handle_long_generation": "hole"}, "truncation"),
        ({"max_output_tokens": 5, "max_tokens": 6}, "max_tokens"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParameter) as error:
        response(**fields)
    assert error.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"input": ""},
        {"input": []},
        {"input": None},
        {"input": ["hi"]},
        {"input": [{"role": "tool", "content": "a"}]},
        {"input": [{"role": "user", "content": []}]},
        {"input": [{"role": "user"}]},
        {"text": {"format": {"type": "json_schema", "name": "n"}}},
        {"text": {"format": {"type": "text", "schema": {}}}},
        {"include": ["file_search_call.results"]},
        {"background": True, "background_options": {"completion_window": "2 weeks"}},
        {"background": True, "background_options": {"completion_window": "0h"}},
    ],
)
def test_other_values_are_invalid(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        response(**fields)


def test_values_that_change_nothing_are_accepted() -> None:
    response(
        text={"format": {"type": "text"}, "verbosity": "medium"},
        tool_choice="none",
        tools=[{"type": "function"}],
        parallel_tool_calls=True,
        reasoning={"effort": "none"},
        prompt_cache_retention="in_memory",
        prompt_cache_key="k",
        safety_identifier="s",
        stream=True,
        stream_options={"include_obfuscation": False},
    )
