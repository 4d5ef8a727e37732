"""Clients for Redis: one place for timeouts, retries and what counts as a good URL.

Knows no key and no command. A client made here survives a restart of Redis by itself.
"""

import socket
from typing import Any
from urllib.parse import urlsplit

from arq.connections import ArqRedis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from shared.errors import SettingsError

CONNECT_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 5.0
RETRIES = 3

# What a call may raise while Redis is away; OSError covers refused and reset sockets.
UNREACHABLE = (RedisError, OSError)


def connect(url: str, *, name: str, block_s: float = 0.0) -> ArqRedis:
    """A client for `url`; nothing is sent before the first command.

    A client that blocks (BLPOP, XREAD) must be its own and say in `block_s` for how long, so that
    its socket waits longer than Redis does. Raises SettingsError when the URL cannot be used.
    """
    try:
        client = ArqRedis.from_url(url, **_options(url, name, COMMAND_TIMEOUT_S + block_s))
        client.connection_pool.make_connection()  # unknown options of the URL show only here
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"redis_url {_without_password(url)!r} is not usable: {error}"
        ) from None
    assert isinstance(client, ArqRedis)
    return client


def _options(url: str, name: str, timeout_s: float) -> dict[str, Any]:
    # No health_check_interval: redis-py 5.3 checks within the handshake, and the check connects
    # anew; a Redis that is mute or wants a password then never ends in an error. Keepalives do it.
    options: dict[str, Any] = {
        "client_name": name,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(ExponentialBackoff(cap=0.3, base=0.05), RETRIES),
        "retry_on_error": [ConnectionError, TimeoutError],
    }
    if not url.startswith("unix:"):
        options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}
    return options


def _keepalive() -> dict[int, int]:
    """Notice a silent peer within half a minute, on platforms that let us say so."""
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _without_password(url: str) -> str:
    password = urlsplit(url).password if "@" in url else None
    return url.replace(f":{password}@", ":***@") if password else url
