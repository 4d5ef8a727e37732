"""The api process: bind, serve, stop in order; knows uvicorn and no route."""

import asyncio
import socket
from types import FrameType

import structlog
import uvicorn

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from shared.errors import SettingsError
from shared.logs import configure_logs

log = structlog.get_logger(__name__)


class ApiServer(uvicorn.Server):
    """Ends open calls after a grace period, and exits 0 on SIGTERM and Ctrl-C."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal does not wait. uvicorn's own would raise the signal anew at the end."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace_s = self._services.settings.grace_s
        asyncio.get_running_loop().call_later(grace_s, self._services.stopping.set)
        await super().shutdown(sockets)


def main(settings: ApiSettings) -> int:
    """Serve until told to stop. Raises SettingsError for an address or URL that cannot be used."""
    configure_logs(settings.log_level, settings.log_format)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.grace_s) + 1,
    )
    with listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        log.info("listening", host=host, port=port)
        server = ApiServer(config, app.state.services)
        server.run(sockets=[listener])
    return 0 if server.started else 1


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises SettingsError with one line where the address is taken or wrong."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise cannot_listen(host, port, error) from error
    return listener


def cannot_listen(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(f"--host/--port: cannot listen on {host}:{port} ({error.strerror})")
