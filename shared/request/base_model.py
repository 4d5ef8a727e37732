"""A pydantic base whose fields may all be null, which means "not given".

Knows no field; the tables of parameters and of requests build on it.
"""

from typing import Any, ClassVar

from pydantic import ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from shared.request.closed import StrictModel

ABOUT = ("title", "description", "default", "examples")


class OptionalFieldsModel(StrictModel):
    """Strict, frozen, finite, closed to unknown names; `null` leaves a field at its default."""

    model_config = ConfigDict(allow_inf_nan=False)

    # Fields for which null is a value of its own.
    keeps_null: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        nulled = cls.model_fields.keys() - cls.keeps_null
        return {k: v for k, v in data.items() if v is not None or k not in nulled}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say in the schema what the types do not: every field with a default may be null."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        required = schema.get("required", ())
        schema["properties"] = {
            name: value if name in required else or_null(value)
            for name, value in schema["properties"].items()
        }
        return schema


def or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    kinds = schema.get("anyOf")
    if kinds and {"type": "null"} in kinds:
        return schema
    about = {key: value for key, value in schema.items() if key in ABOUT}
    kind = {key: value for key, value in schema.items() if key not in ABOUT}
    return {"anyOf": [*(kinds or [kind]), {"type": "null"}], **about}
