"""Create Redis clients with the timeouts, retries and connection pools of Falconer.

Each client reconnects after a restart of Redis, and follows the master to another server.
"""

import socket
import ssl
from collections.abc import Callable
from typing import Any

from arq.connections import ArqRedis
from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from shared.errors import SettingsError
from shared.redis.pool import (
    Pool,
    SentinelConnection,
    SentinelPool,
    SentinelTlsConnection,
    SocketFileConnection,
    TcpConnection,
    TlsConnection,
)
from shared.redis.url import RedisUrl, read_url

CONNECT_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 3.0  # after a failed command, a worker can still renew a 10 s lease
SENTINEL_TIMEOUT_S = 0.5  # leaves time to ask the next sentinel if one is dead
RETRIES = 3

# Errors of a call while Redis is unreachable; OSError covers refused and reset sockets.
UNREACHABLE = (RedisError, OSError)


def connect(url: str, *, name: str, block_s: float = 0.0) -> ArqRedis:
    """Return a client for `url` (see `shared.redis.url`); the first command opens a connection.

    Blocking commands (BLPOP, XREAD) need a client of their own, with their timeout as `block_s`:
    its socket then waits longer than Redis blocks. Raises SettingsError if `url` is not usable.
    """
    try:
        pool = _pool(read_url(url), name, COMMAND_TIMEOUT_S + block_s)
        connection = pool.make_connection()
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()  # raises if a certificate file is missing
    except (ValueError, TypeError, OSError, RedisError) as error:
        raise SettingsError(f"redis_url is not usable: {error}") from None
    client = ArqRedis.from_pool(pool)
    assert isinstance(client, ArqRedis)
    return client


def is_refusal(error: BaseException) -> bool:
    """Return whether a retry cannot help: a wrong password, or an untrusted certificate."""
    return isinstance(error, AuthenticationError | ResponseError) or isinstance(
        error.__context__, ssl.SSLCertVerificationError
    )


def _pool(url: RedisUrl, name: str, timeout_s: float) -> ConnectionPool:
    options = _options(name, timeout_s) | url.options
    kind = url.options.get("connection_class")
    is_tls = kind is SSLConnection
    if kind is UnixDomainSocketConnection:
        return Pool(**options | {"connection_class": SocketFileConnection})
    options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}
    if url.service is None:
        return Pool(**options | {"connection_class": TlsConnection if is_tls else TcpConnection})
    options["connection_class"] = SentinelTlsConnection if is_tls else SentinelConnection
    make: Callable[..., ConnectionPool] = SentinelPool
    return make(url.service, _sentinel(url, is_tls), **options)


def _sentinel(url: RedisUrl, is_tls: bool) -> Sentinel:
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    return Sentinel(
        url.sentinels,
        sentinel_kwargs=timeouts | {"ssl": is_tls} | (url.sentinel_options or {}),
    )


def _options(name: str, timeout_s: float) -> dict[str, Any]:
    # No health_check_interval: redis-py 5.3 checks within the handshake, and each check connects
    # again. A Redis that does not answer, or wants a password, then never leads to an error.
    # TCP keepalives detect dead connections instead.
    return {
        "client_name": name,
        "lib_name": None,  # saves a round trip in each handshake
        "lib_version": None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(ExponentialBackoff(cap=0.3, base=0.05), RETRIES),
        "retry_on_error": [ConnectionError, TimeoutError],
    }


def _keepalive() -> dict[int, int]:
    """Return socket options that detect a dead peer within 30 s, where the platform has them."""
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
