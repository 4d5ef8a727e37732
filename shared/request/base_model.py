"""Base models of requests, which reject unknown fields and accept null for optional fields."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

MAX_UNKNOWN = 100  # unknown fields with an error each; above, all of them are one error
MAX_SHOWN = 100  # characters of an unknown field's name in the error
ANNOTATIONS = ("title", "description", "default", "examples")


class StrictModel(BaseModel):
    """Frozen model that rejects unknown fields and converts no types.

    A body can hold a hundred thousand unknown fields, and an error for each would take seconds.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _limit_unknown_fields(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > len(cls.model_fields) + MAX_UNKNOWN:
            unknown = [name for name in data if name not in cls.model_fields]
            raise PydanticCustomError(
                "rule",
                "{count} unknown parameters, the first is {first}",
                {"count": len(unknown), "first": str(unknown[0])[:MAX_SHOWN]},
            )
        return data


class OptionalFieldsModel(StrictModel):
    """Strict model of finite numbers in which `null` leaves a field at its default."""

    model_config = ConfigDict(allow_inf_nan=False)

    # Fields for which null is a value of its own; for the others it means the default.
    nullable_fields: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        dropped = cls.model_fields.keys() - cls.nullable_fields
        return {k: v for k, v in data.items() if v is not None or k not in dropped}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema in which every field with a default may be null."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        required = schema.get("required", ())
        schema["properties"] = {
            name: value if name in required else or_null(value)
            for name, value in schema["properties"].items()
        }
        return schema


def or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Return a schema that also accepts null, with the annotations of the original outside."""
    kinds = schema.get("anyOf")
    if kinds and {"type": "null"} in kinds:
        return schema
    annotations = {key: value for key, value in schema.items() if key in ANNOTATIONS}
    kind = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
    return {"anyOf": [*(kinds or [kind]), {"type": "null"}], **annotations}
