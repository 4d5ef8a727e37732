"""The `Prefer` request header (RFC 7240): answer at once, or wait for a while first."""

from dataclasses import dataclass

from api.http.header_lists import split
from shared.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Preference:
    """`wait_s`: how long the caller waits before a 202; None: until the job ends."""

    wait_s: float | None = None
    applied: str | None = None


def parse_prefer(headers: list[str] | None, max_wait_s: float) -> Preference:
    """What all `Prefer` headers of a request say together; a longer wait is cut to `max_wait_s`.

    Of the known preferences `wait` wins over `respond-async`; unknown ones are ignored.
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
            f"wait should be a whole number of seconds up to 999999, got {text[:40]!r}",
            field="Prefer",
        )
    return int(text)
