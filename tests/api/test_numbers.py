"""JSON has one number type: `5.0` and `1e1` are valid for every integer of the OpenAPI document."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.openapi import component_schemas
from api.schemas import ChatRequest
from shared.request.limits import MAX_SEED
from tests.api.refusals import JSON, check_refusal
from tests.fakes_api import FakeService

SCHEMAS = component_schemas()
HOLE = "<the number>"
MOST_EXACT = 2**53  # a double holds every integer up to here


@dataclass(frozen=True)
class Place:
    """One integer field of a request."""

    name: str  # its path
    template: str  # a whole body, with HOLE as its value
    least: int
    most: int

    def body(self, number: str) -> bytes:
        return self.template.replace(json.dumps(HOLE), number).encode()


def places(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield path, value with a HOLE, and schema of each integer below `schema`."""
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "integer":
        yield path, HOLE, schema
    for kind in schema.get("anyOf", ()):
        yield from places(kind, path)
    for name, kind in schema.get("properties", {}).items():
        for below, value, integer in places(kind, f"{path}.{name}"):
            yield below, {name: value}, integer
    if "items" in schema:
        for below, value, integer in places(schema["items"], f"{path}.0"):
            yield below, [value], integer
    for index, kind in enumerate(schema.get("prefixItems", ())):
        for below, value, integer in places(kind, f"{path}.{index}"):
            yield below, completed(value, index, schema["prefixItems"]), integer


def completed(value: Any, index: int, kinds: list[dict[str, Any]]) -> list[Any]:
    """Return a list with `value` at `index` and 1 elsewhere."""
    return [value if position == index else 1 for position in range(len(kinds))]


def all_places() -> list[Place]:
    found = []
    for path, value, integer in places(SCHEMAS["ChatRequest"]):
        limits = integer.get("minimum", -MAX_SEED), integer.get("maximum", MAX_SEED)
        template = json.dumps({"prompt": "hello"} | value)
        found.append(Place(path.removeprefix("."), template, *limits))
    return found


PLACES = all_places()


def test_the_openapi_document_has_the_integers_of_the_contract() -> None:
    names = {place.name for place in PLACES}
    assert len(PLACES) == len({place.template for place in PLACES}) >= 30
    assert names > {
        "priority",
        "ttl_s",
        "generate_kwargs.max_length",
        "generate_kwargs.top_k",
        "generate_kwargs.seed",
        "generate_kwargs.top_logprobs",
        "generate_kwargs.eos_token_id",
        "generate_kwargs.eos_token_id.0",
        "generate_kwargs.bad_words_ids.0",
        "generate_kwargs.bad_words_ids.0.0",
        "generate_kwargs.sequence_bias.0.0.0",
        "generate_kwargs.exponential_decay_length_penalty.0",
    }


def read(body: bytes) -> Any:
    """Return the request, or the location and type of the first error."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        return [(item["loc"], item["type"]) for item in error.errors()]


def spellings(number: int) -> list[str]:
    """Return spellings of one integer."""
    sign, digits = "-" if number < 0 else "", str(abs(number))
    exponent = len(digits) - 1
    return [
        f"{number}.0",
        f"{number}.000",
        f"{number}e0",
        f"{10 * number}e-1",
        f"{sign}{digits[0]}.{digits[1:] or '0'}E+{exponent}",
    ]


@given(st.sampled_from(PLACES), st.data())
def test_an_integer_is_the_same_however_it_is_spelled(place: Place, data: st.DataObject) -> None:
    near = st.integers(place.least - 2, place.most + 2)
    inside = near.filter(lambda number: abs(number) <= MOST_EXACT)
    number = data.draw(inside | st.integers(-3, 300))
    spelled = data.draw(st.sampled_from(spellings(number)))
    assert read(place.body(spelled)) == read(place.body(str(number))), spelled


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_every_integer_of_a_route_accepts_a_float_without_a_fraction(
    service: FakeService, path: str
) -> None:
    """It refuses a fraction, a text and a boolean."""
    for place in PLACES:
        number = max(place.least, min(place.most, 1))
        answers = [
            await service.http.post(path, content=place.body(text), headers=JSON)
            for text in (str(number), f"{number}.0")
        ]
        statuses = {answer.status_code for answer in answers}
        assert len(statuses) == 1, (place.name, [answer.text for answer in answers])
        assert "integer" not in answers[1].text
        for wrong in ("5.5", '"5"', "true", "1e400", "NaN"):
            refused = await service.http.post(path, content=place.body(wrong), headers=JSON)
            check_refusal(refused.status_code, refused.text, 422, [place.name.split(".0")[0]])


async def test_the_error_for_a_huge_integer_names_the_field(service: FakeService) -> None:
    for place in PLACES:
        for text in ("1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 400 + ".0", "1e300"):
            refused = await service.http.post("/chat", content=place.body(text), headers=JSON)
            check_refusal(refused.status_code, refused.text, 422, [place.name.split(".0")[0]])
