"""Connections to the Redis that takes writes, and the pools that keep them.

Knows no URL and no command.
"""

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

MAX_CONNECTIONS = 64  # of one client; more calls than this wait for one another

# How a Redis that is no master speaks: to a write, to anything, to a command that blocks. Redis 6
# wraps it into a script's error, so that redis-py has no class for it.
NO_MASTER = ("read only replica", "Link with MASTER is down", "instance state changed")


class MasterOnly(AbstractConnection):
    """Ends when its Redis turns out to be a replica: the next one may reach the new master.

    redis-py does so only behind Sentinel, and only for what is not a script.
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
    """Connects for many calls at once, to a limit.

    redis-py's own pool connects one at a time, which a slow network turns into a queue.
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
    """Connections to whichever Redis the sentinels call the master."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:  # all of them: the client closes
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()
