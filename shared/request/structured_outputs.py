"""Structured outputs: the schema, regex, choices or grammar that the text of an answer follows.

llguidance compiles each of them to a grammar: the api to refuse it early, the engine for its masks.
"""

import json
import re
from typing import Annotated, Any, Self

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from shared.errors import BadRequest
from shared.request.base_model import OptionalFieldsModel
from shared.request.limits import MAX_GRAMMAR_CHARS
from shared.request.parameter_types import MAX_LIST, rule_error

MAX_CHOICE_CHARS = 512
NO_DETAILS = "<non-verbose/>"  # ends a reason of llguidance
MAX_REASON_CHARS = 300  # of the reason why a grammar is refused

KINDS = ("json", "regex", "choice", "grammar", "json_object")
# A line of Lark. llguidance's own pattern takes time that grows with the square of blank lines.
LARK_LINE = re.compile(r"^[ \t]*(%llguidance\b|start[ \t]*:)", re.MULTILINE)
ANY_OBJECT = '{"type": "object"}'
# A space, or a new line with its indentation. Some models would add spaces up to the last token.
WHITESPACE = r"( |\n[ \t]{0,20})"


def as_schema_text(value: Any) -> Any:
    """Return the text of a JSON schema: msgpack lacks the large numbers that it may have."""
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        if isinstance(schema, dict):
            return json.dumps(schema, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    raise rule_error("must be a JSON schema: an object, or its text")


GrammarText = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]
JsonSchema = Annotated[
    GrammarText, BeforeValidator(as_schema_text, json_schema_input_type=dict[str, Any] | str)
]
Choice = Annotated[str, Field(max_length=MAX_CHOICE_CHARS)]
Choices = Annotated[list[Choice], Field(min_length=1, max_length=MAX_LIST, fail_fast=True)]


class StructuredOutputs(OptionalFieldsModel):
    """What the text follows: exactly one of json, regex, choice, grammar and json_object.

    The names are vLLM's.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    json_schema: JsonSchema | None = Field(
        default=None, alias="json", description="A JSON schema, as an object or its text."
    )
    regex: GrammarText | None = Field(
        default=None, description="A regular expression that matches the whole text."
    )
    choice: Choices | None = Field(default=None, description="The possible texts.")
    grammar: GrammarText | None = Field(
        default=None, description="A grammar in llguidance's form of Lark, or in GBNF."
    )
    json_object: bool = Field(default=False, description="True: any JSON object.")
    whitespace_pattern: GrammarText | None = Field(
        default=None, description="A regular expression for the space between tokens of JSON."
    )
    disable_any_whitespace: bool = Field(
        default=False, description="True: no space between tokens of JSON."
    )

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        given = [name for name in KINDS if self._value(name)]
        if len(given) != 1:
            raise rule_error(f"must have exactly one of {', '.join(KINDS)}")
        if (self.whitespace_pattern or self.disable_any_whitespace) and "json" not in self.kind:
            raise rule_error("must not have an option of whitespace without json or json_object")
        return self

    @property
    def kind(self) -> str:
        """Return the name of the given field."""
        return next(name for name in KINDS if self._value(name))

    def _value(self, name: str) -> Any:
        return self.json_schema if name == "json" else getattr(self, name)

    @property
    def is_gbnf(self) -> bool:
        """Return whether `to_grammar` converts GBNF, which may take minutes."""
        return self.grammar is not None and LARK_LINE.search(self.grammar) is None

    def to_grammar(self) -> str:
        """Return the grammar of llguidance, which is not compiled yet.

        Call it for GBNF only in a process with a limit. Raises ValueError with the reason why the
        text cannot be converted.
        """
        if self.regex is not None:
            return LLMatcher.grammar_from_regex(self.regex)
        if self.choice is not None:
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(_quoted, self.choice)))
        if self.grammar is not None:
            lark = _from_gbnf(self.grammar) if self.is_gbnf else self.grammar
            return LLMatcher.grammar_from_lark(lark)
        schema = self.json_schema or ANY_OBJECT
        if self.disable_any_whitespace:
            return LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_flexible": False}
            )
        pattern = self.whitespace_pattern or WHITESPACE
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": pattern})


def _from_gbnf(text: str) -> str:
    """Return a grammar in Lark. Raises ValueError."""
    try:
        lark: str = gbnf_to_lark(text)
    except Exception as error:  # of several kinds, and RecursionError
        reason = f"Failed to convert the grammar from GBNF to Lark: {error}"
        raise ValueError(reason) from None
    return lark


def _quoted(text: str) -> str:
    """Return a string of Lark."""
    return json.dumps(text)


def invalid_grammar(outputs: StructuredOutputs, reason: str) -> BadRequest:
    """Return the error of a grammar that llguidance refuses, in one line."""
    shown = " ".join(reason.removesuffix(NO_DETAILS).split())[:MAX_REASON_CHARS]
    if shown.startswith("NoExtension"):
        shown = "no text fits it"
    field = f"generate_kwargs.structured_outputs.{outputs.kind}"
    return BadRequest(f"cannot be used: {shown}", field=field)


def without_contradictions(
    outputs: StructuredOutputs | None, info: ValidationInfo
) -> StructuredOutputs | None:
    """Refuse parameters that no grammar can be combined with; they precede this field."""
    if outputs is None:
        return None
    if info.data.get("num_beam_groups", 1) > 1:
        raise rule_error("must not be given with num_beam_groups > 1")
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if info.data.get(name) is not None:
            raise rule_error(f"must not be given with {name}")
    return outputs


OptionalStructure = Annotated[StructuredOutputs | None, AfterValidator(without_contradictions)]
