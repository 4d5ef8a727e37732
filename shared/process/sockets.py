"""Bind a listening socket before anything else starts, and choose ports for child processes."""

import secrets
import socket
from contextlib import closing, suppress

from shared.errors import SettingsError

PORTS = range(20_000, 32_000)  # below the ports that Linux gives to outgoing connections


def listen(host: str, port: int, *, flags: str = "--host/--port") -> socket.socket:
    """Return a listening socket; port 0 selects a free port.

    Raises SettingsError, which names the `flags`, if the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(host, port, flags, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, flags, error) from error
    return listener


def free_port() -> int:
    """Return a port of 127.0.0.1 for a server that starts later.

    Linux never gives this port to an outgoing connection in the meantime, as it may do with the
    port that `bind` chooses.

    Raises OSError if a hundred ports are in use.
    """
    for port in secrets.SystemRandom().sample(PORTS, 100):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports of 127.0.0.1 are in use")


def _cannot_listen(host: str, port: int, flags: str, error: OSError) -> SettingsError:
    return SettingsError(f"{flags}: cannot listen on {host}:{port} ({error.strerror})")
