"""Parse the request headers that have a syntax: `Prefer`, `Accept` and `Idempotency-Key`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema

from shared.errors import BadRequest

QUOTED = r'"(?:\\.|[^"\\])*"?'
WEIGHT = re.compile(r"[01](\.\d*)?")
IDEMPOTENCY_KEY = "Idempotency-Key"


def split(text: str, separator: str) -> list[str]:
    """Return the parts between separators outside of quotes (RFC 9110, 5.6).

    There is at least one part. Empty parts are left out.
    """
    return re.findall(rf'(?:[^"{separator}]|{QUOTED})+', text) or [""]


def parameters(parts: Iterable[str]) -> dict[str, str]:
    """Return `name=value` parts by name in lower case, values without quotes."""
    pairs = (part.partition("=") for part in parts)
    return {name.strip().lower(): unquoted(value.strip()) for name, _, value in pairs}


def unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' == value[-1:] else value


PreferHeader = Annotated[
    list[str] | None,
    WithJsonSchema({"type": "string"}),  # of each such header; schemas know one per name
    Header(description="`respond-async`: 202 at once; `wait=N`: 202 after N seconds."),
]


@dataclass(frozen=True, slots=True)
class Preference:
    """What the `Prefer` headers of a request ask for (RFC 7240)."""

    wait_s: float | None = None  # until a 202 response; None: until the job ends
    applied: str | None = None  # for `Preference-Applied`


def parse_prefer(headers: list[str] | None, max_wait_s: float) -> Preference:
    """Return the preference of all `Prefer` headers; a longer wait is cut to `max_wait_s`.

    `wait` takes precedence over `respond-async`. Unknown preferences are ignored.
    """
    preference = Preference()
    for token in (token for header in headers or () for token in split(header, ",")):
        name, _, value = split(token, ";")[0].partition("=")
        match name.strip().lower():
            case "wait":
                wait_s = min(seconds(value.strip().strip('"')), max_wait_s)
                return Preference(wait_s, f"wait={wait_s:g}")
            case "respond-async":
                preference = Preference(0.0, "respond-async")
    return preference


def seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise BadRequest(
            f"wait must be a whole number of seconds up to 999999, got {text[:40]!r}",
            field="Prefer",
        )
    return int(text)


def prefers(request: Request, wanted: str, default: str) -> bool:
    """Return whether the `Accept` headers prefer `wanted` to `default` (RFC 9110, 12.5.1).

    Where both have the same weight, `wanted` must be named. A client that accepts neither gets
    `default`.
    """
    ranges = accepted_ranges(request.headers.getlist("accept"))
    quality, rival = quality_of(wanted, ranges), quality_of(default, ranges)
    return quality > rival or (quality == rival > 0 and wanted in ranges)


def accepted_ranges(headers: list[str]) -> dict[str, float]:
    """Return the weight of each media range; the highest where a range is repeated."""
    ranges: dict[str, float] = {}
    for item in (item for header in headers for item in split(header, ",")):
        media_range, *rest = split(item, ";")
        weight = parameters(rest).get("q", "1")
        name = media_range.strip().lower()
        quality = float(weight) if WEIGHT.fullmatch(weight) else 1.0
        ranges[name] = max(quality, ranges.get(name, 0.0))
    return ranges


def quality_of(media_type: str, ranges: dict[str, float]) -> float:
    """Return the weight of the most specific range that matches, 0 if none does."""
    family = media_type.partition("/")[0] + "/*"
    return next((ranges[name] for name in (media_type, family, "*/*") if name in ranges), 0.0)


KeyHeader = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        min_length=1,
        max_length=255,
        description="Same key and same body: the same job, also after it is done.",
    ),
]


async def only_key(request: Request, key: KeyHeader = None) -> str | None:
    """Return the key. Raises BadRequest for two: the client's may differ from a proxy's."""
    num_keys = len(set(request.headers.getlist(IDEMPOTENCY_KEY)))
    if num_keys > 1:
        raise BadRequest(
            f"must be given once, got {num_keys} different ones", field=IDEMPOTENCY_KEY
        )
    return key


IdempotencyKey = Annotated[str | None, Depends(only_key)]
