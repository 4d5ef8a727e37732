"""The syntax that many HTTP headers share: lists, parameters and quoted strings (RFC 9110, 5.6)."""

import re
from collections.abc import Iterable

QUOTED = r'"(?:\\.|[^"\\])*"?'


def split(text: str, separator: str) -> list[str]:
    """Return the parts between separators outside of quotes; at least one, none is empty."""
    return re.findall(rf'(?:[^"{separator}]|{QUOTED})+', text) or [""]


def parameters(parts: Iterable[str]) -> dict[str, str]:
    """Return `name=value` parts by name in lower case, values without quotes."""
    pairs = (part.partition("=") for part in parts)
    return {name.strip().lower(): unquoted(value.strip()) for name, _, value in pairs}


def unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' == value[-1:] else value
