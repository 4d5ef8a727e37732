"""Parse a Redis URL into options of redis-py. No error repeats a part of the URL.

`redis://`, `rediss://` and `unix://` have redis-py's form. Sentinels have the form of
redis-sentinel-url, limits and LangChain:
`redis+sentinel://user:password@host:port,host:port/service/db?options`, or `rediss+sentinel://` if
all servers use TLS.

redis-py's parser is not used: it may take a part of a password for a host or a port and repeat it
in errors. It also accepts options that change replies.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

URL = re.compile(
    r"(?P<scheme>redis|rediss)(?P<sentinel>\+sentinel)?://((?P<user>[^/?#@\s]*)@)?"
    r"(?P<hosts>[^/?#@]*)(?P<path>[^?#@]*)(\?(?P<query>[^#]*))?"
)
SOCKET_URL = re.compile(r"unix://((?P<user>[^/?#@\s]*)@)?(?P<path>/[^?#]*)(\?(?P<query>[^#]*))?")
SCHEME = re.compile(r"(rediss?(\+sentinel)?|unix)://")
BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
SENTINEL_PORT = 26379

ENCODE = (
    "its user name and password must be percent-encoded "
    "(% as %25, / as %2F, ? as %3F, # as %23, @ as %40)"
)


def read_number(value: str) -> int:
    if not re.fullmatch("[0-9]+", value):
        raise ValueError("must be a number")
    return int(value)


def read_switch(value: str) -> bool:
    if value.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError("must be yes or no")
    return value.lower() in ("yes", "true", "1")


# No options for timeouts, retries, RESP3 and decoding: the queue relies on its own values.
OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": read_number,
    "username": str,
    "password": str,
    "client_name": str,
    "max_connections": read_number,
}
TLS_OPTIONS: dict[str, Callable[[str], Any]] = {
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_ciphers": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": read_switch,
}
SENTINEL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "sentinel_username": str,
    "sentinel_password": str,
}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    options: dict[str, Any]  # of redis-py, for connections to Redis
    service: str | None = None  # name of the master; None without sentinels
    sentinels: tuple[tuple[str, int], ...] = ()  # hosts and ports
    sentinel_options: dict[str, Any] | None = None  # of redis-py, for connections to sentinels


def read_url(url: str) -> RedisUrl:
    """Parse `url`. Raises ValueError without any part of a password."""
    url = url.strip()  # a secret from a file often ends with a line break
    if not SCHEME.match(url):
        raise ValueError(
            "it must begin with one of the schemes redis://, rediss://, unix://, "
            "redis+sentinel:// and rediss+sentinel://"
        )
    if any("\ud800" <= character <= "\udfff" for character in url):
        raise ValueError("it must be UTF-8")  # the environment yields other bytes as surrogates
    match = (SOCKET_URL if url.startswith("unix") else URL).fullmatch(url)
    if match is None or BAD_ESCAPE.search(match["user"] or ""):
        raise ValueError(ENCODE)
    try:
        return _read_parts(match)
    except ValueError:
        if "@" in (match["query"] or ""):  # the error may name a part of a password
            raise ValueError(ENCODE) from None
        raise


def _read_parts(match: re.Match[str]) -> RedisUrl:
    username, _, password = (match["user"] or "").partition(":")
    credentials = {"username": unquote(username), "password": unquote(password)}
    options: dict[str, Any] = {name: value for name, value in credentials.items() if value}
    if match.re is SOCKET_URL:
        options |= {"path": unquote(match["path"]), "connection_class": UnixDomainSocketConnection}
        return RedisUrl(options | _read_query(match["query"], OPTIONS))
    is_tls = match["scheme"] == "rediss"
    allowed = OPTIONS | (TLS_OPTIONS if is_tls else {})
    if is_tls:
        options["connection_class"] = SSLConnection
    if match["sentinel"]:
        return _read_sentinel_url(match, options, allowed | SENTINEL_OPTIONS)
    options |= _read_host(match["hosts"]) | _read_database(match["path"].removeprefix("/"))
    return RedisUrl(_check_host_names(options | _read_query(match["query"], allowed)))


def _read_sentinel_url(
    match: re.Match[str], options: dict[str, Any], allowed: dict[str, Callable[[str], Any]]
) -> RedisUrl:
    service, _, database = match["path"].strip("/").partition("/")
    if not service:
        raise ValueError("the name of the master is missing: /service/db after the sentinels")
    options |= _read_database(database) | _read_query(match["query"], allowed)
    options = _check_host_names(options)
    credentials = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in SENTINEL_OPTIONS
        if name in options
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    sentinels = [_read_host(host) for host in match["hosts"].split(",")]
    if not all("host" in sentinel for sentinel in sentinels):
        raise ValueError("a sentinel without a host name")
    return RedisUrl(
        options=options,
        service=unquote(service),
        sentinels=tuple((each["host"], each.get("port", SENTINEL_PORT)) for each in sentinels),
        sentinel_options=credentials | tls,
    )


def _check_host_names(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with host name checks, which redis-py leaves off by default."""
    if "connection_class" in options and options.get("ssl_cert_reqs") != "none":
        options.setdefault("ssl_check_hostname", True)
    return options


def _read_host(host: str) -> dict[str, Any]:
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(
            f"a host must be a name or an address, a port a number up to 65535; {ENCODE}"
        ) from None
    return ({"host": unquote(name)} if name else {}) | ({"port": port} if port else {})


def _read_database(path: str) -> dict[str, int]:
    if not path:
        return {}
    if not re.fullmatch("[0-9]+", path):
        raise ValueError("the database, which follows the last /, must be a number")
    return {"db": int(path)}


def _read_query(query: str | None, allowed: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in filter(None, (query or "").split("&")):
        name, _, value = pair.partition("=")
        if not re.fullmatch("[a-z_]+", name):
            raise ValueError(f"an option must be name=value; {ENCODE}")
        if name not in allowed:
            raise ValueError(f"the option {name!r} is not allowed; these are: {', '.join(allowed)}")
        try:
            options[name] = allowed[name](unquote(value))
        except ValueError as error:
            raise ValueError(f"the option {name!r} {error}") from None
    return options
