"""Building blocks of the parameter table: field types and the checks that look at other fields.

Each check raises with the limit in its message; the field's name comes from where it is used.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from shared.request.limits import MAX_BIAS, MAX_INT, MAX_SEED

MAX_LIST = 1024  # entries of a list of token ids, words or biases
MAX_NGRAM = 256  # token ids of one banned or biased sequence
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_DECAY = 100.0  # growth per token


def whole(value: Any) -> Any:
    """Turn a float without a fraction into an integer: JSON has one number type.

    Return anything else as it is, for the field to judge.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_items(value: Any) -> Any:
    """Do the same for each item of a list; a list without floats costs next to nothing."""
    if isinstance(value, list) and float in set(map(type, value)):
        return [whole(item) for item in value]
    return value


def as_list(value: Any) -> Any:
    """A single value where a list is meant; anything else is left for the field to judge."""
    return [value] if isinstance(value, int | float | str) else value


def as_words(value: Any) -> Any:
    """A flat list of ids means single-token words."""
    if isinstance(value, list):
        return [[item] if isinstance(item, int | float) else item for item in value]
    return value


def as_pair(value: Any) -> Any:
    """JSON and msgpack have no tuples."""
    return tuple(value) if isinstance(value, list) else value


WHOLE = BeforeValidator(whole)  # behind the limits, or the JSON schema misses them
Count = Annotated[int, Field(ge=0, le=MAX_INT), WHOLE]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_INT), WHOLE]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE]

# Each list stops at its first error: a body has room for hundreds of thousands of wrong items, and
# an answer names five.
TokenId = Count
TokenIdItem = Annotated[int, Field(ge=0, le=MAX_INT)]  # its list makes integers of all at once
WHOLE_ITEMS = BeforeValidator(whole_items)
TokenIdList = Annotated[
    list[TokenIdItem], Field(min_length=1, max_length=MAX_LIST, fail_fast=True), WHOLE_ITEMS
]
TokenIds = Annotated[
    TokenIdList, BeforeValidator(as_list, json_schema_input_type=TokenId | TokenIdList)
]
TokenSequence = Annotated[
    list[TokenIdItem], Field(min_length=1, max_length=MAX_NGRAM, fail_fast=True), WHOLE_ITEMS
]
WordList = Annotated[list[TokenSequence], Field(min_length=1, max_length=MAX_LIST, fail_fast=True)]
Words = Annotated[
    WordList, BeforeValidator(as_words, json_schema_input_type=WordList | TokenIdList)
]

StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopStringList = Annotated[
    list[StopString], Field(min_length=1, max_length=MAX_STOP_STRINGS, fail_fast=True)
]
StopStrings = Annotated[
    StopStringList, BeforeValidator(as_list, json_schema_input_type=StopString | StopStringList)
]

LengthDecay = Annotated[
    tuple[Count, Annotated[float, Field(gt=0, le=MAX_DECAY)]],
    BeforeValidator(as_pair),
]
BiasValue = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Bias = Annotated[tuple[TokenSequence, BiasValue], BeforeValidator(as_pair)]
Biases = Annotated[list[Bias], Field(min_length=1, max_length=MAX_LIST, fail_fast=True)]


def broken_rule(message: str) -> PydanticCustomError:
    """What a check raises; `message` is for the caller to read and names the limit."""
    return PydanticCustomError("rule", "{message}", {"message": message})


def while_sampling(
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> AfterValidator:
    """A range that holds while `do_sample` is true; greedy decoding ignores the value.

    Needs `do_sample` to be declared before the field.
    """
    limits = {">": gt, "≥": ge, "<": lt, "≤": le}
    spelled = " and ".join(
        f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None
    )

    def check(value: float, info: ValidationInfo) -> float:
        inside = (
            (gt is None or value > gt)
            and (ge is None or value >= ge)
            and (lt is None or value < lt)
            and (le is None or value <= le)
        )
        if info.data.get("do_sample") and not inside:
            raise broken_rule(f"must be {spelled} while do_sample is true")
        return value

    return AfterValidator(check)
