"""Bind a listening socket before anything else starts, so that a used address fails at once."""

import socket

from shared.errors import SettingsError


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


def _cannot_listen(host: str, port: int, flags: str, error: OSError) -> SettingsError:
    return SettingsError(f"{flags}: cannot listen on {host}:{port} ({error.strerror})")
