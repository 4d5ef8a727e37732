"""Structured outputs below `/v1`: names, conflicts, and refusals before a job is queued."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import InvalidParameter
from shared.request.structured_outputs import StructuredOutputs
from tests.api.openai.test_translation import chat, completion, job
from tests.fakes_api import FakeService, fake_service

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
ENDLESS = {"type": "integer", "multipleOf": 9999991}  # llguidance compiles it for hours
CHAIN = {  # overflows llguidance's stack
    "$defs": {f"{i:x}": {"items": {"$ref": f"#/$defs/{i + 1:x}"}} for i in range(1500)}
    | {f"{1500:x}": {}},
    "$ref": "#/$defs/0",
}


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"response_format": FORMAT}, {"json": SCHEMA}),
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"json": SCHEMA}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ({"structured_outputs": {"regex": "b"}}, {"regex": "b"}),
        (
            {"structured_outputs": {"regex": "b"}, "response_format": {"type": "text"}},
            {"regex": "b"},
        ),
    ],
)
def test_every_name_asks_for_the_same_structure(
    make: Any, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = job(make(**fields)).generate_kwargs.structured_outputs
    assert found == StructuredOutputs.model_validate(expected)


@pytest.mark.parametrize(
    "fields", [{}, {"response_format": None}, {"response_format": {"type": "text"}}]
)
def test_plain_text_has_no_structure(fields: dict[str, Any]) -> None:
    assert "structured_outputs" not in job(chat(**fields)).generate_kwargs.model_fields_set


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": FORMAT, "guided_json": SCHEMA}, "response_format"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_regex": "a", "forced_eos_token_id": 5}, "guided_regex"),
    ],
)
def test_contradictions_are_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        chat(**fields).jobs()
    assert error.value.field == field


@pytest.mark.parametrize(
    "answer_format",
    [
        {"type": "json_schema"},
        {"type": "json_object", "json_schema": {"name": "n", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "n"}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": "{"}},
        {"type": 5},
        {},
    ],
)
def test_a_malformed_response_format_is_refused(answer_format: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        chat(response_format=answer_format)
    assert error.value.errors()[0]["loc"][0] == "response_format"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"guided_regex": "("}, "guided_regex", "unclosed group"),
        ({"guided_grammar": "nonsense"}, "guided_grammar", "Expected ::="),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar", "unknown"),
        ({"guided_json": {"not": {}}}, "guided_json", 'Unimplemented keys: ["not"]'),
        ({"guided_json": ENDLESS}, "guided_json", "takes more than 2 s"),
        ({"guided_json": CHAIN}, "guided_json", "takes more than 2 s"),
        ({"guided_json": {"enum": []}}, "guided_json", "Unsatisfiable"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "must name a token"),
    ],
)
async def test_a_grammar_that_cannot_be_used_is_a_400_before_its_job_is_queued(
    service: FakeService, fields: dict[str, Any], param: str, message: str
) -> None:
    response = await service.http.post(CHAT, json=HI | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert message in error["message"]
    fine = await service.http.post(CHAT, json=HI | {"guided_regex": "a+"})
    assert fine.status_code == 200, "the next grammar is checked again"
    assert len(service.worker.seen) == 1


async def test_a_known_grammar_waits_for_no_check_of_another(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [HI | {"guided_regex": "a+"}, HI | {"guided_regex": "("}]
    first = [await service.http.post(CHAT, json=body) for body in bodies]
    monkeypatch.delattr("api.jobs.tokenization.Tokenization.check_grammar")
    again = [await service.http.post(CHAT, json=body) for body in bodies]
    assert [response.status_code for response in again] == [200, 400]
    assert first[1].json() == again[1].json()


async def test_chat_refuses_a_grammar_by_the_name_of_its_parameter(service: FakeService) -> None:
    kwargs = {"structured_outputs": {"json": {"type": "foo"}}}
    response = await service.http.post("/chat", json={"prompt": "a", "generate_kwargs": kwargs})
    assert response.status_code == 400
    expected = "generate_kwargs.structured_outputs.json: cannot be used: Invalid type: foo"
    assert response.json()["detail"] == expected
    assert service.worker.seen == []


async def test_the_job_carries_the_text_of_the_schema(service: FakeService) -> None:
    huge = {"type": "integer", "maximum": 10**30}
    response = await service.http.post(TEXT, json={"prompt": "a", "guided_json": huge})
    assert response.status_code == 200, response.text
    [sent] = service.worker.seen
    assert sent.generate_kwargs["structured_outputs"] == {"json": json.dumps(huge)}


async def test_without_a_model_the_worker_checks_the_grammar() -> None:
    async with fake_service(with_worker=False) as service:
        body = {"prompt": "a", "generate_kwargs": {"structured_outputs": {"regex": "("}}}
        assert (await service.http.post("/jobs", json=body)).status_code == 202
