"""Connections that accept only a Redis master, and pools that open many connections at once."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import ConnectionError, ResponseError

MAX_CONNECTIONS = 64  # of one client; further calls wait for a free connection

# Errors of a replica: to a write, to any command, to a blocked command. Redis 6 wraps them into a
# script's error, for which redis-py has no class.
NO_MASTER = ("read only replica", "Link with MASTER is down", "instance state changed")


class MasterOnly(AbstractConnection):
    """Disconnect from a replica, so that the next connection can reach the new master.

    redis-py does so only behind Sentinel, and not for errors of scripts.
    """

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except ResponseError as error:
            if not any(words in str(error) for words in NO_MASTER):
                raise
            await self.disconnect(nowait=True)
            raise ConnectionError(f"this Redis is no master: {error}") from error


class TcpConnection(MasterOnly, Connection):
    pass


class TlsConnection(MasterOnly, SSLConnection):
    pass


class SocketFileConnection(MasterOnly, UnixDomainSocketConnection):
    pass


class SentinelConnection(MasterOnly, SentinelManagedConnection):
    pass


class SentinelTlsConnection(MasterOnly, SentinelManagedSSLConnection):
    pass


class Pool(ConnectionPool):
    """Open up to MAX_CONNECTIONS connections at the same time.

    redis-py's pool opens one after the other, so calls queue up on a slow network.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._free = asyncio.Semaphore(min(MAX_CONNECTIONS, self.max_connections))
        self._take: Callable[[], AbstractConnection] = self.get_available_connection

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        await self._free.acquire()
        connection = self._take()
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        self._free.release()
        await super().release(connection)


class SentinelPool(SentinelConnectionPool, Pool):
    """Connect to the server that the sentinels name as the master."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:  # the client closes, so all connections do
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()
