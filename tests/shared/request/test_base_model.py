"""A body of unknown fields takes no longer to reject than a valid body to accept."""

import pytest
from pydantic import ValidationError

from shared.request.base_model import MAX_UNKNOWN, StrictModel


class Point(StrictModel):
    x: int = 0
    y: int = 0


def refusal(**fields: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Point.model_validate(fields)
    return caught.value


def test_a_few_unknown_fields_have_an_error_each() -> None:
    error = refusal(x=1, **{f"z{i}": i for i in range(MAX_UNKNOWN)})
    assert error.error_count() == MAX_UNKNOWN
    assert error.errors()[0]["loc"] == ("z0",)


def test_many_unknown_fields_are_one_error_that_names_the_first() -> None:
    error = refusal(x=1, **{f"z{i}" + "z" * 1000: i for i in range(100_000)})
    assert error.error_count() == 1
    message = error.errors()[0]["msg"]
    assert message.startswith("100000 unknown parameters, the first is z0z")
    assert len(message) < 200
