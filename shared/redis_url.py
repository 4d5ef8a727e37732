"""What a Redis URL may say, taken apart; knows no client.

`redis://`, `rediss://` and `unix://` are redis-py's. Sentinels are named as in redis-sentinel-url,
limits and LangChain: `redis+sentinel://user:password@host:port,host:port/service/db?options`, with
`rediss+sentinel://` where all of them speak TLS.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url

# Python's own urlsplit takes brackets for the mark of a single IPv6 address.
SENTINEL_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://((?P<user>[^/?]*)@)?(?P<hosts>[^/?@]*)"
    r"(?P<path>[^?]*)(?P<query>.*)"
)
SENTINEL_PORT = 26379

PASSWORDS = (re.compile(r"(?<=//)([^/:@]*:).+(?=@)"), re.compile(r"(\bpassword=|_password=)[^&]*"))


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """`options` are redis-py's for a connection to Redis, `sentinel_options` for one to a sentinel.

    `service` is None where the URL names Redis itself.
    """

    options: dict[str, Any]
    service: str | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_options: dict[str, Any] | None = None


def read_url(url: str) -> RedisUrl:
    """Raises ValueError."""
    match = SENTINEL_URL.fullmatch(url)
    return RedisUrl(_read_plain_url(url)) if match is None else _read_sentinel_url(match)


def _read_plain_url(url: str) -> dict[str, Any]:
    """As redis-py reads it, which does not check host names by default."""
    options: dict[str, Any] = dict(parse_url(url))
    if url.startswith("rediss:") and options.get("ssl_cert_reqs") != "none":
        options.setdefault("ssl_check_hostname", True)
    return options


def _read_sentinel_url(match: re.Match[str]) -> RedisUrl:
    service, _, db = match["path"].strip("/").partition("/")
    if not service:
        raise ValueError("the name of the master is missing: /service/db after the sentinels")
    # What is not of sentinels is read by redis-py, as if it were a URL of Redis itself.
    user = "" if match["user"] is None else f"{match['user']}@"
    plain = f"{match['scheme']}://{user}redis/{db}{match['query']}"
    options = _read_plain_url(plain)
    del options["host"]
    credentials = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return RedisUrl(
        options=options,
        service=unquote(service),
        sentinels=tuple(_read_host(host) for host in match["hosts"].split(",")),
        sentinel_options=credentials | tls,
    )


def _read_host(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("a sentinel without a host name")
    return parts.hostname, parts.port or SENTINEL_PORT


def without_passwords(url: str) -> str:
    for password in PASSWORDS:
        url = password.sub(r"\1***", url)
    return url
