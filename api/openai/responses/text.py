"""The options of a response's text: its format is a structured output in OpenAI's flat form."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from api.openai.fields import refused
from api.openai.structure import MAX_DESCRIPTION, MAX_NAME, known_format
from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import rule_error
from shared.request.structured_outputs import JsonSchema


class TextFormat(OptionalFieldsModel):
    """The format of the text."""

    type: Annotated[Literal["text", "json_object", "json_schema"], BeforeValidator(known_format)]
    name: str | None = Field(default=None, max_length=MAX_NAME, description="No effect.")
    description: str | None = Field(
        default=None,
        max_length=MAX_DESCRIPTION,
        description="No effect: the model sees no schema.",
    )
    json_schema: JsonSchema | None = Field(
        default=None,
        alias="schema",
        validate_default=True,
        description="With the type `json_schema` only.",
    )
    strict: bool | None = Field(
        default=None, description="No effect: each schema is enforced as it is."
    )

    @field_validator("json_schema")
    @classmethod
    def _check_json_schema(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is not None) != (info.data.get("type") == "json_schema"):
            raise rule_error("must be given with the type json_schema, and with no other")
        return value

    def structure(self) -> dict[str, Any] | None:
        """Return `structured_outputs` of `generate_kwargs`; None for any text."""
        if self.type == "text":
            return None
        return {"json_object": True} if self.json_schema is None else {"json": self.json_schema}

    def shown(self) -> dict[str, Any]:
        """Return the format as the request gave it."""
        given = self.model_dump(by_alias=True, exclude_unset=True)
        if self.json_schema is not None:
            given["schema"] = json.loads(self.json_schema)
        return given


class TextOptions(OptionalFieldsModel):
    """Options of the text."""

    format: TextFormat = Field(
        default_factory=lambda: TextFormat(type="text"),
        description="`text`, `json_object`, or `json_schema`, which is enforced.",
    )
    verbosity: Annotated[Any, refused("ask for it in the conversation", "medium")] = None
