"""Field types of the generation parameters, and checks that depend on other fields.

The message of a check names the limit. pydantic adds the name of the field.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from shared.request.limits import MAX_BIAS, MAX_INT, MAX_SEED

MAX_LIST = 1024  # entries of a list of token ids, words or biases
MAX_NGRAM = 256  # token ids of one banned or biased sequence
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_DECAY = 100.0  # growth per token


def as_integer(value: Any) -> Any:
    """Return an integer for a float without a fraction, because JSON has one number type.

    Other values are returned unchanged, for the field to check.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def items_as_integers(value: Any) -> Any:
    """Apply `as_integer` to the items of a list that has floats."""
    if isinstance(value, list) and float in set(map(type, value)):
        return [as_integer(item) for item in value]
    return value


def no_number(value: Any) -> Any:
    """Return a value that is no number: Python counts 0 and 1 as equal to false and true."""
    if type(value) in (int, float):
        raise rule_error('must be true, false or "never"')
    return value


def as_list(value: Any) -> Any:
    """Return a list for a single value; other values are returned unchanged."""
    return [value] if isinstance(value, int | float | str) else value


def as_words(value: Any) -> Any:
    """Return a list of token sequences for a flat list of token ids."""
    if isinstance(value, list):
        return [[item] if isinstance(item, int | float) else item for item in value]
    return value


def as_pair(value: Any) -> Any:
    """Return a tuple for a list, because JSON and msgpack have no tuples."""
    return tuple(value) if isinstance(value, list) else value


EarlyStopping = Annotated[Literal[True, False, "never"], BeforeValidator(no_number)]
INTEGER = BeforeValidator(as_integer)  # after the limits, or the JSON schema misses them
Count = Annotated[int, Field(ge=0, le=MAX_INT), INTEGER]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_INT), INTEGER]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), INTEGER]

# Each list stops at its first error: a body can hold hundreds of thousands of invalid items, and a
# response names five.
TokenId = Count
TokenIdItem = Annotated[int, Field(ge=0, le=MAX_INT)]  # the list converts its items to integers
INTEGER_ITEMS = BeforeValidator(items_as_integers)
TokenIdList = Annotated[
    list[TokenIdItem], Field(min_length=1, max_length=MAX_LIST, fail_fast=True), INTEGER_ITEMS
]
TokenIds = Annotated[
    TokenIdList, BeforeValidator(as_list, json_schema_input_type=TokenId | TokenIdList)
]
TokenSequence = Annotated[
    list[TokenIdItem], Field(min_length=1, max_length=MAX_NGRAM, fail_fast=True), INTEGER_ITEMS
]
PromptTokenIds = Annotated[list[TokenIdItem], Field(min_length=1, fail_fast=True), INTEGER_ITEMS]
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


def rule_error(message: str) -> PydanticCustomError:
    """Return pydantic's error for a value that breaks a rule; `message` must name the limit."""
    return PydanticCustomError("rule", "{message}", {"message": message})


def while_sampling(
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> AfterValidator:
    """Return a range check for sampling; greedy decoding ignores the value.

    The model must declare `do_sample` before the field.
    """
    limits = {">": gt, "≥": ge, "<": lt, "≤": le}
    bounds = " and ".join(
        f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None
    )

    def check(value: float, info: ValidationInfo) -> float:
        is_inside = (
            (gt is None or value > gt)
            and (ge is None or value >= ge)
            and (lt is None or value < lt)
            and (le is None or value <= le)
        )
        if info.data.get("do_sample") and not is_inside:
            raise rule_error(f"must be {bounds} while do_sample is true")
        return value

    return AfterValidator(check)
