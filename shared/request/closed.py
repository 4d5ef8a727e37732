"""A pydantic base that is closed to unknown names, and soon has enough of them.

Knows no field; the tables of parameters and of requests build on it.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

MAX_UNKNOWN = 100  # names that get an error each
MAX_SHOWN = 100  # characters of a name that the caller chose


class StrictModel(BaseModel):
    """Strict and frozen; each unknown name is an error, and so many that no one reads on are one.

    For a body has room for a hundred thousand, and their errors would take seconds to make.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _unknown_names_are_few(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > len(cls.model_fields) + MAX_UNKNOWN:
            unknown = [name for name in data if name not in cls.model_fields]
            raise PydanticCustomError(
                "rule",
                "{count} unknown parameters, the first is {first}",
                {"count": len(unknown), "first": str(unknown[0])[:MAX_SHOWN]},
            )
        return data
