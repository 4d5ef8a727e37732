"""The api process: bind the address, serve requests, shut down without losing any."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import structlog
import uvicorn

from api.app import asgi_app, create_app
from api.http.connection_limits import LimitedHttpProtocol
from api.services import Services
from api.settings import ApiSettings
from shared.access.settings import is_loopback
from shared.process.asyncio_tasks import cancel_all
from shared.process.log_config import configure_logs
from shared.process.signals import stop_signals
from shared.process.sockets import listen

# Clients and load balancers close idle connections after 5 to 60 s. The api waits longer, so it
# never closes a connection on which a request is on its way.
KEEP_ALIVE_S = 75
UNREAD_S = 60.0  # in which a client must read some of the data that waits for it
LINGER_S = 2.0  # for requests that are on their way when a shutdown begins
POLL_S = 0.02

log = structlog.get_logger(__name__)


class ApiServer(uvicorn.Server):
    """Shut down without resetting a connection, and exit 0 on SIGTERM and Ctrl-C."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP too, but no signal that the parent process set to be ignored."""
        handlers = {signum: signal.signal(signum, self.handle_exit) for signum in stop_signals()}
        try:
            yield
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down; on a second signal, without waiting.

        uvicorn's handler would raise the signal again at the end, and change the exit code.
        """
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Log the address only now: from here on, signals cause a graceful shutdown."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("listening", host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace_s = self._services.settings.grace_s
        asyncio.get_running_loop().call_later(grace_s, self._services.stopping.set)
        self.server_state.default_headers.append((b"connection", b"close"))  # of every response
        await self._stop_listening(sockets or [])
        await self._wait_for_requests()
        await super().shutdown()
        await cancel_all(self._services.tasks)  # uvicorn skips the lifespan on a second signal

    async def _stop_listening(self, listeners: list[socket.socket]) -> None:
        """Accept the connections in the backlog, which closing a listener would reset."""
        duplicates = [listener.dup() for listener in listeners]
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.close()
        accepted = [each for duplicate in duplicates for each in drain_accept_queue(duplicate)]
        loop = asyncio.get_running_loop()
        for connection in accepted:
            await loop.connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> LimitedHttpProtocol:
        return LimitedHttpProtocol(self.config, self.server_state, self.lifespan.state)

    async def _wait_for_requests(self) -> None:
        """Keep idle connections open for a moment: most clients soon send another request."""
        for _ in range(round(LINGER_S / POLL_S)):
            if not self.server_state.connections or self.force_exit:
                return
            await asyncio.sleep(POLL_S)


def drain_accept_queue(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that wait at a listening socket, then close it."""
    with listener:
        listener.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                yield listener.accept()[0]


def limit_unread_time(listener: socket.socket, seconds: float = UNREAD_S) -> None:
    """Let Linux reset a connection if its client reads no pending data for `seconds`.

    Connections inherit the option from the socket that accepts them.
    """
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))


def main(settings: ApiSettings) -> int:
    """Serve until a signal. Raises SettingsError for an address, URL or bucket of no use."""
    configure_logs(settings.log_level, settings.log_format)
    app = create_app(settings)
    asyncio.run(app.state.services.redis.files.check())
    config = uvicorn.Config(
        asgi_app(app, settings),
        loop="uvloop",
        http=LimitedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # its warnings are about requests: upgrade offers, malformed heads
        access_log=False,
        server_header=False,
        proxy_headers=False,  # they would replace the proxy's address, which decides about trust
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.grace_s) + 1,
    )
    if settings.keys_file is None and not is_loopback(settings.host):
        log.warning("serving without API keys: every client is an admin", host=settings.host)
    with listen(settings.host, settings.port) as listener:
        limit_unread_time(listener)
        server = ApiServer(config, app.state.services)
        server.run(sockets=[listener])
    return 0 if server.started else 1
