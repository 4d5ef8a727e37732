"""Ports for child processes."""

import socket
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from shared.process import sockets
from shared.process.sockets import free_port


def test_an_outgoing_connection_never_takes_a_free_port() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < first for _ in range(20))


def test_a_port_in_use_is_not_chosen() -> None:
    used, unused = free_port(), free_port()
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", used))
        with patch.object(sockets, "PORTS", [used] * 50 + [unused] * 50):
            assert free_port() == unused
        with patch.object(sockets, "PORTS", [used] * 100), pytest.raises(OSError, match="in use"):
            free_port()
