"""Helpers: request bodies, and checks of error responses."""

import json
from typing import Any

JSON = {"Content-Type": "application/json"}


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "hello"} | fields).encode()


def kwargs(text: str) -> bytes:
    """Return a body whose generate_kwargs contain `text`, which is raw JSON."""
    return b'{"prompt": "hello", "generate_kwargs": {%b}}' % text.encode()


def is_refused(status: int, text: str, expected: int, names: list[str]) -> bool:
    detail = json.loads(text)["detail"]
    return status == expected and len(detail) < 1000 and all(name in detail for name in names)


def check_refusal(status: int, text: str, expected: int, names: list[str]) -> None:
    assert is_refused(status, text, expected, names), (status, text)
