"""Structured outputs: valid fields, their grammars, and the process that checks these."""

import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer
from pydantic import ValidationError
from tokenizers import Tokenizer

from shared.errors import BadRequest
from shared.request.grammar_checker import GrammarChecker
from shared.request.limits import MAX_GRAMMAR_CHARS
from shared.request.parameters import GenerateKwargs
from shared.request.structured_outputs import StructuredOutputs
from tests.echo_worker import letter_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(letter_tokenizer().to_str())


@pytest.fixture(scope="module")
def checker() -> GrammarChecker:
    return GrammarChecker(letter_tokenizer())


def structured(**fields: Any) -> StructuredOutputs:
    return StructuredOutputs.model_validate(fields)


def accepts(tokenizer: LLTokenizer, outputs: StructuredOutputs, text: str) -> bool:
    matcher = LLMatcher(tokenizer, outputs.to_grammar(), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    token_ids = tokenizer.tokenize_str(text)
    num_read = matcher.try_consume_tokens(token_ids)
    return num_read == len(token_ids) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, ()),
        ({"json_object": False}, ()),
        ({"json": {}, "regex": "a"}, ()),
        ({"regex": "a", "whitespace_pattern": " "}, ()),
        ({"json": "[]"}, ("json",)),
        ({"json": "{"}, ("json",)),
        ({"json": 5}, ("json",)),
        ({"json": "[" * 100_000}, ("json",)),
        ({"regex": ""}, ("regex",)),
        ({"choice": []}, ("choice",)),
        ({"choice": [1]}, ("choice", 0)),
        ({"choice": ["a"] * 1025}, ("choice",)),
        ({"regex": "a" * (MAX_GRAMMAR_CHARS + 1)}, ("regex",)),
        ({"json": {"description": "a" * MAX_GRAMMAR_CHARS}}, ("json",)),
        ({"structural_tag": "a"}, ("structural_tag",)),
    ],
)
def test_an_invalid_structure_is_refused_by_name(
    fields: dict[str, Any], where: tuple[Any, ...]
) -> None:
    with pytest.raises(ValidationError) as error:
        GenerateKwargs.model_validate({"structured_outputs": fields})
    assert error.value.errors()[0]["loc"] == ("structured_outputs", *where)


@pytest.mark.parametrize(
    "others",
    [
        {"num_beams": 2, "num_beam_groups": 2, "do_sample": False, "diversity_penalty": 1.0},
        {"forced_bos_token_id": 5},
        {"forced_eos_token_id": 5},
    ],
)
def test_parameters_that_no_structure_can_have_are_refused(others: dict[str, Any]) -> None:
    GenerateKwargs.model_validate(others)
    with pytest.raises(ValidationError, match="must not be given with") as error:
        GenerateKwargs.model_validate(others | {"structured_outputs": {"regex": "a"}})
    assert error.value.errors()[0]["loc"] == ("structured_outputs",)


def test_null_fields_are_absent() -> None:
    assert structured(regex="a", json=None, choice=None).kind == "regex"


def test_a_job_keeps_the_order_of_properties_and_any_number() -> None:
    schema = {"properties": {"z": {"maximum": 10**40}, "a": {}}, "required": ["z"]}
    kwargs = GenerateKwargs.model_validate({"structured_outputs": {"json": schema}})
    sent = msgspec.msgpack.encode(kwargs.model_dump(exclude_unset=True))
    received = GenerateKwargs.model_validate(msgspec.msgpack.decode(sent))
    assert received == kwargs
    assert msgspec.json.decode(received.structured_outputs.json_schema) == schema


@pytest.mark.parametrize(
    "texts",
    [["yes", "no"], ["", "a"], ["a\nb\t", 'quo"te', "back\\slash"], ["\U0001f600é\x7f", "\u2028"]],
)
def test_choices_are_texts_as_they_are(tokenizer: LLTokenizer, texts: list[str]) -> None:
    outputs = structured(choice=texts)
    assert all(accepts(tokenizer, outputs, text) for text in texts)
    assert not accepts(tokenizer, outputs, texts[-1] + "x")


@pytest.mark.parametrize(
    ("fields", "text", "is_accepted"),
    [
        ({}, '{"a":[1,2]}', True),
        ({}, '{"a": [1, 2]}', True),
        ({}, '{\n  "a": [\n    1,\n    2\n  ]\n}', True),
        ({}, '{  "a":[]}', False),
        ({}, '{\n\n"a":[]}', False),
        ({}, '{"a":[]} ', False),
        ({"disable_any_whitespace": True}, '{"a":[1,2]}', True),
        ({"disable_any_whitespace": True}, '{"a": [1,2]}', False),
        ({"whitespace_pattern": " *"}, '{   "a":[]}', True),
    ],
)
def test_whitespace_of_json_is_bounded(
    tokenizer: LLTokenizer, fields: dict[str, Any], text: str, is_accepted: bool
) -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}, "type": "object"}
    assert accepts(tokenizer, structured(json=schema, **fields), text) is is_accepted


@pytest.mark.parametrize("text", ['start: "a"+', 'root ::= "a"+'])
def test_a_grammar_is_in_lark_or_gbnf(tokenizer: LLTokenizer, text: str) -> None:
    assert accepts(tokenizer, structured(grammar=text), "aaa")
    assert not accepts(tokenizer, structured(grammar=text), "ab")


def test_a_deep_gbnf_is_refused(checker: GrammarChecker) -> None:
    with pytest.raises(BadRequest) as error:
        checker.check(structured(grammar="root ::= " + "(" * 20_000))
    assert error.value.field == "generate_kwargs.structured_outputs.grammar"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n" * 65_000, "No 'root' rule found"),
        (" \n" * 32_000 + "start", "Expected ::="),
        ("start" + "\n" * 65_000, "Expected ::="),
    ],
    ids=["lines", "indented", "start"],
)
def test_the_callers_process_spends_no_time_on_a_grammar(
    checker: GrammarChecker, text: str, reason: str
) -> None:
    """llguidance's own search for Lark took 17 s of a CPU for 65,000 lines."""
    before = time.thread_time()
    for _ in range(2):
        with pytest.raises(BadRequest, match=reason):
            checker.check(structured(grammar=text))
        with pytest.raises(BadRequest, match=reason):
            checker.to_grammar(structured(grammar=text), is_checked=True)
    assert time.thread_time() - before < 2


def test_only_the_limited_process_converts_gbnf(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = structured(grammar='root ::= "ab"+')
    expected = outputs.to_grammar()
    monkeypatch.delattr("shared.request.structured_outputs.gbnf_to_lark")
    checker.check(outputs)
    for is_checked in (True, False):
        assert checker.to_grammar(outputs, is_checked=is_checked) == expected


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize(
    "fields", [{"grammar": 'root ::= "a"+'}, {"grammar": ' start : "a"'}, {"regex": "a"}]
)
def test_a_checker_returns_the_grammar_that_it_checked(
    checker: GrammarChecker, fields: dict[str, Any], is_checked: bool
) -> None:
    outputs = structured(**fields)
    assert checker.to_grammar(outputs, is_checked=is_checked) == outputs.to_grammar()


def test_a_checker_remembers_a_bounded_number_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.request.grammar_checker.MAX_KNOWN", 2)
    checker = GrammarChecker(letter_tokenizer())
    usable = [structured(regex="a" * length) for length in (1, 2, 3)]
    refused = [structured(regex="(" * length) for length in (1, 2, 3)]
    for outputs in (*usable, *refused):
        with suppress(BadRequest):
            checker.check(outputs)
    assert [checker.is_known(outputs) for outputs in usable] == [False, True, True]
    assert not checker.is_known(refused[0])
    for outputs in refused[1:]:
        with pytest.raises(BadRequest, match="unclosed group"):
            checker.is_known(outputs)


def test_a_checker_survives_grammars_that_end_its_process() -> None:
    tokenizer: Tokenizer = letter_tokenizer()
    checker = GrammarChecker(tokenizer)
    patterns = [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(40)]
    rules = "\n".join(f"a{i}: a{i + 1}" for i in range(3000))
    for fields in ({"json": {"allOf": patterns}}, {"grammar": f'start: a0\n{rules}\na3000: "x"'}):
        with pytest.raises(BadRequest, match="takes more than 2 s or too much memory"):
            checker.check(structured(**fields))
        checker.check(structured(regex="a+"))
    with pytest.raises(BadRequest, match="no text fits it"):
        definition = {"allOf": [{"$ref": "#/$defs/a"}]}
        checker.check(structured(json={"$defs": {"a": definition}, "$ref": "#/$defs/a"}))
