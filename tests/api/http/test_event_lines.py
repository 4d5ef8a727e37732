"""Each event has one data line, for any line separators in the text."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from api.routes.sse import event
from tests.fakes_api import served_api

SEPARATORS = [char for char in map(chr, range(0x110000)) if len(f"a{char}b".splitlines()) > 1]
TEXT = " ".join(f"eins{separator}zwei" for separator in SEPARATORS)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served_api() as url:
        yield url


@given(st.text(st.sampled_from(SEPARATORS) | st.characters(codec="utf-8")))
def test_an_event_has_two_lines_by_every_definition_of_a_line(text: str) -> None:
    data, end = event({"delta": text}).decode().splitlines()
    assert end == ""
    assert json.loads(data.removeprefix("data: ")) == {"delta": text}


def test_the_separators_include_those_outside_of_ascii() -> None:
    assert {"\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"} < set(SEPARATORS)
    assert {"\u2028", "\u2029"} < set(SEPARATORS)


def read_by_httpx(address: str, method: str, path: str, body: Any = None) -> list[Any]:
    with httpx.stream(method, address + path, json=body, timeout=60) as response:
        assert response.status_code == 200
        return events_in(response.iter_lines())


def read_by_requests(address: str, method: str, path: str, body: Any = None) -> list[Any]:
    with requests.request(method, address + path, json=body, timeout=60, stream=True) as response:
        assert response.status_code == 200
        return events_in(response.iter_lines(decode_unicode=True))


def events_in(lines: Iterable[str]) -> list[Any]:
    """Return the data of each event; fail for a line that is not of the format."""
    kept = [line for line in lines if line and not line.startswith((":", "id: "))]
    assert all(line.startswith("data: ") for line in kept), kept
    return [json.loads(line.removeprefix("data: ")) for line in kept]


@pytest.mark.parametrize("read", [read_by_httpx, read_by_requests])
def test_line_based_clients_receive_text_with_line_separators(address: str, read: Any) -> None:
    expected = "".join(f" {word.upper()}" for word in TEXT.split(" "))
    *deltas, end = read(address, "POST", "/chat", {"prompt": TEXT, "stream": True})
    assert "".join(delta["delta"] for delta in deltas) == expected
    assert end["Result"] == TEXT + expected
    assert read(address, "GET", f"/jobs/{end['id']}/events") == [*deltas, end]
