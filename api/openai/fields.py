"""Types of the fields of OpenAI's requests, and of fields that are refused by name."""

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import MAX_LIST, MAX_STOP_STRINGS, StopString, StopStrings

UNSUPPORTED = "unsupported"  # pydantic's type of error for a field that is refused by name

MAX_BIAS = 100


def unsupported(reason: str) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED, "{message}", {"message": f"is not supported: {reason}"})


def refused(reason: str, *accepted: Any) -> BeforeValidator:
    """Validate a field that is refused by name, unless its value is one of `accepted`.

    Those change nothing: they ask for what the service does anyway.
    """

    def check(value: Any) -> Any:
        if any(type(value) is type(choice) and value == choice for choice in accepted):
            return value
        raise unsupported(reason)

    choices = " or ".join(f"`{json.dumps(choice)}`" for choice in accepted)
    schema = {
        "enum": [*accepted, None],
        "description": f"Refused except {choices}: {reason}."
        if accepted
        else f"Refused: {reason}.",
    }
    return BeforeValidator(check, json_schema_input_type=Annotated[Any, WithJsonSchema(schema)])


StopStringsOrNone = StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)]


def empty_as_none(value: Any) -> Any:
    """Return None for an empty list, which some clients send for no stop string."""
    return None if value == [] else value


Stop = Annotated[
    StopStrings | None,
    BeforeValidator(empty_as_none, json_schema_input_type=StopStringsOrNone),
]
BiasValue = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
TokenIdText = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
LogitBias = Annotated[dict[TokenIdText, BiasValue], Field(max_length=MAX_LIST)]


WINDOW_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
CompletionWindow = Annotated[str, Field(pattern="^(soonest|[1-9][0-9]{0,5}[smhd])$")]


def window_s(window: str) -> int | None:
    """Return the seconds of a completion window, such as `90s`, `30m` or `2h`; None for none."""
    return None if window == "soonest" else int(window[:-1]) * WINDOW_UNITS_S[window[-1]]


class StreamOptions(OptionalFieldsModel):
    """Options of a stream."""

    include_usage: bool = Field(
        default=False, description="Send the usage in a chunk before the end of the stream."
    )
    continuous_usage_stats: bool = Field(
        default=False, description="With include_usage: every chunk has its choice's usage so far."
    )
    include_obfuscation: Annotated[Any, refused("chunks are not padded", False)] = None
