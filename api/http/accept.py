"""The `Accept` request header (RFC 9110, 12.5.1): which of two media types a client prefers."""

import re

from fastapi import Request

from api.http.header_lists import parameters, split

WEIGHT = re.compile(r"[01](\.\d*)?")


def prefers(request: Request, wanted: str, default: str) -> bool:
    """Return whether the client prefers `wanted` to `default`.

    Where both have the same weight, `wanted` must be named. A client that accepts neither gets
    `default`, as RFC 9110 allows.
    """
    ranges = accepted_ranges(request.headers.getlist("accept"))
    quality, rival = quality_of(wanted, ranges), quality_of(default, ranges)
    return quality > rival or (quality == rival > 0 and wanted in ranges)


def accepted_ranges(headers: list[str]) -> dict[str, float]:
    """Media ranges and their weights; of a range that comes several times, the highest."""
    ranges: dict[str, float] = {}
    for item in (item for header in headers for item in split(header, ",")):
        media_range, *rest = split(item, ";")
        weight = parameters(rest).get("q", "1")
        name = media_range.strip().lower()
        quality = float(weight) if WEIGHT.fullmatch(weight) else 1.0
        ranges[name] = max(quality, ranges.get(name, 0.0))
    return ranges


def quality_of(media_type: str, ranges: dict[str, float]) -> float:
    """The weight of the most specific range that matches, 0 if none does."""
    family = media_type.partition("/")[0] + "/*"
    return next((ranges[name] for name in (media_type, family, "*/*") if name in ranges), 0.0)
