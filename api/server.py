"""The api process: bind, serve, stop in order; knows uvicorn and no route."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import structlog
import uvicorn

from api.app import create_app
from api.http.asgi import asgi_app
from api.http.connection_limits import LimitedHttpProtocol
from api.services import Services
from api.settings import ApiSettings
from shared.process.asyncio_tasks import cancel_all
from shared.process.log_config import configure_logs
from shared.process.signals import stop_signals
from shared.process.sockets import listen

# Longer than callers and load balancers keep theirs (5 to 60 s): what they close meets no call.
KEEP_ALIVE_S = 75
SETTLE_S = 2.0  # a stop leaves connections open this long: callers soon use most of them again
POLL_S = 0.02

log = structlog.get_logger(__name__)


class ApiServer(uvicorn.Server):
    """Ends open calls after a grace period, and exits 0 on SIGTERM and Ctrl-C.

    Whoever has connected before the end gets an answer, so that a restart loses no request.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP too, and no signal that the process was started to ignore."""
        handlers = {signum: signal.signal(signum, self.handle_exit) for signum in stop_signals()}
        try:
            yield
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal does not wait. uvicorn's own would raise the signal anew at the end."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Only who can be stopped in order says that it is there."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("listening", host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace_s = self._services.settings.grace_s
        asyncio.get_running_loop().call_later(grace_s, self._services.stopping.set)
        self.server_state.default_headers.append((b"connection", b"close"))  # of every answer
        await self._stop_listening(sockets or [])
        await self._settle()
        await super().shutdown()
        await cancel_all(self._services.tasks)  # a second signal leaves them to us

    async def _stop_listening(self, listeners: list[socket.socket]) -> None:
        """Closing a listener resets the connections that it has not accepted: accept them first."""
        doors = [listener.dup() for listener in listeners]
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.close()
        connections = [connection for door in doors for connection in last_through(door)]
        loop = asyncio.get_running_loop()
        for connection in connections:
            await loop.connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> LimitedHttpProtocol:
        return LimitedHttpProtocol(self.config, self.server_state, self.lifespan.state)

    async def _settle(self) -> None:
        for _ in range(round(SETTLE_S / POLL_S)):
            if not self.server_state.connections or self.force_exit:
                return
            await asyncio.sleep(POLL_S)


def last_through(door: socket.socket) -> Iterator[socket.socket]:
    """Connections that wait at a listening socket, which is closed as soon as there is none."""
    with door:
        door.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                yield door.accept()[0]


def main(settings: ApiSettings) -> int:
    """Serve until told to stop. Raises SettingsError for an address or URL that cannot be used."""
    configure_logs(settings.log_level, settings.log_format)
    app = create_app(settings)
    config = uvicorn.Config(
        asgi_app(app, settings),
        loop="uvloop",
        http=LimitedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # it would hide the address of the proxy, whose word may count
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.grace_s) + 1,
    )
    with listen(settings.host, settings.port) as listener:
        server = ApiServer(config, app.state.services)
        server.run(sockets=[listener])
    return 0 if server.started else 1
