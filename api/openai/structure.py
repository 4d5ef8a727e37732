"""The names below `/v1` for structured outputs: OpenAI's `response_format`, vLLM's `guided_*`."""

from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from api.openai.fields import unsupported
from shared.errors import InvalidParameter
from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import rule_error
from shared.request.parameters import GenerateKwargs
from shared.request.structured_outputs import (
    Choices,
    GrammarText,
    JsonSchema,
    StructuredOutputs,
)

MAX_NAME = 64  # characters
MAX_DESCRIPTION = 4096
FORMATS = ("text", "json_object", "json_schema")
GUIDED = {f"guided_{kind}": kind for kind in ("json", "regex", "choice", "grammar")}


def known_format(value: Any) -> Any:
    """Refuse other formats as not supported: vLLM has more."""
    if isinstance(value, str) and value not in FORMATS:
        raise unsupported(f"response formats are {', '.join(FORMATS)}")
    return value


class JsonSchemaFormat(OptionalFieldsModel):
    """A schema in the form of OpenAI's `response_format`."""

    name: str | None = Field(default=None, max_length=MAX_NAME, description="No effect.")
    description: str | None = Field(
        default=None,
        max_length=MAX_DESCRIPTION,
        description="No effect: the model sees no schema.",
    )
    json_schema: JsonSchema = Field(alias="schema", description="As `json`.")
    strict: bool | None = Field(
        default=None, description="No effect: each schema is enforced as it is."
    )


class ResponseFormat(OptionalFieldsModel):
    """The format of the answer."""

    type: Annotated[Literal["text", "json_object", "json_schema"], BeforeValidator(known_format)]
    json_schema: JsonSchemaFormat | None = Field(
        default=None, validate_default=True, description="With the type `json_schema` only."
    )

    @field_validator("json_schema")
    @classmethod
    def _check_json_schema(
        cls, value: JsonSchemaFormat | None, info: ValidationInfo
    ) -> JsonSchemaFormat | None:
        if (value is not None) != (info.data.get("type") == "json_schema"):
            raise rule_error("must be given with the type json_schema, and with no other")
        return value


class StructuredRequest(GenerateKwargs):
    """The fields below `/v1` that become `structured_outputs`; one of them may be given."""

    response_format: ResponseFormat | None = Field(
        default=None, description="`text`, `json_object`, or `json_schema`, which is enforced."
    )
    guided_json: JsonSchema | None = Field(
        default=None, description="As `json` of `structured_outputs`."
    )
    guided_regex: GrammarText | None = Field(
        default=None, description="As `regex` of `structured_outputs`."
    )
    guided_choice: Choices | None = Field(
        default=None, description="As `choice` of `structured_outputs`."
    )
    guided_grammar: GrammarText | None = Field(
        default=None, description="As `grammar` of `structured_outputs`."
    )

    def check_structure(self) -> None:
        """Raise InvalidParameter if several fields ask for a structure."""
        first, *others = self._structure_fields() or ["none"]
        if others:
            raise InvalidParameter(f"must not be given together with {first}", field=others[0])

    def structure(self) -> StructuredOutputs | dict[str, Any] | None:
        """Return `structured_outputs` of `generate_kwargs`, whatever its name in the request."""
        for name, kind in GUIDED.items():
            if (value := getattr(self, name)) is not None:
                return {kind: value}
        if self._is_format(self.response_format):
            schema = self.response_format.json_schema
            return {"json_object": True} if schema is None else {"json": schema.json_schema}
        return self.structured_outputs

    def structure_field(self, rest: str) -> str:
        """Return the request's name for the field `rest` of `structured_outputs`."""
        [name] = self._structure_fields()
        return f"{name}.{rest}" if rest and name == "structured_outputs" else name

    def _structure_fields(self) -> list[str]:
        """Return the names of the fields that ask for a structure."""
        names = ["structured_outputs", *GUIDED]
        given = [name for name in names if getattr(self, name) is not None]
        return given + ["response_format"] * self._is_format(self.response_format)

    @staticmethod
    def _is_format(value: ResponseFormat | None) -> TypeGuard[ResponseFormat]:
        return value is not None and value.type != "text"
