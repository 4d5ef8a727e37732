"""The file of API keys: JSON, changed by `falconer keys`, read again by the api when it changes."""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from shared.access.api_keys import ApiKey, KeyRing
from shared.errors import SettingsError

POLL_S = 1.0  # until a change of the file counts
MAX_KEYS = 1000  # each request is compared with all of them
MAX_BYTES = 4 * 1024 * 1024
MODE = 0o644  # the file has no secrets, and containers read it as another user

log = structlog.get_logger(__name__)


class KeyFileContent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as a whole."""

    keys: list[ApiKey]


def read_keys(path: Path) -> list[ApiKey]:
    """Return the keys of a file. Raises SettingsError for a file that is not valid."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        keys = msgspec.json.decode(data, type=KeyFileContent).keys
    except OSError as error:
        raise SettingsError(f"cannot read the keys in {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the keys in {path} are not valid: {error}") from error
    check_keys(path, keys)
    return keys


def check_keys(path: Path, keys: list[ApiKey]) -> None:
    """Raise SettingsError for keys that no file may hold together."""
    for what, values in (
        ("name", [key.name for key in keys]),
        ("sha256", [key.sha256 for key in keys]),
    ):
        if len(set(values)) < len(values):
            raise SettingsError(f"the keys in {path} are not valid: each {what} must occur once")
    if len(keys) > MAX_KEYS:
        raise SettingsError(f"the keys in {path} must be at most {MAX_KEYS}, got {len(keys)}")


def change_keys(path: Path, change: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
    """Replace the file as a whole, by one process at a time. Raises SettingsError."""
    try:
        with _locked(path.parent):
            keys = change(read_keys(path) if path.exists() else [])
            check_keys(path, keys)
            _write(path, msgspec.json.encode(KeyFileContent(keys)))
    except OSError as error:
        raise SettingsError(f"cannot write the keys to {path}: {error.strerror}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(msgspec.json.format(data, indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), MODE)
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise


class WatchedKeys:
    """The keys of a file as it is now; a broken file leaves the last valid keys in force."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises SettingsError."""
        self._path = path
        self._state = self._stat()
        self.ring = KeyRing(read_keys(path))

    async def run(self) -> None:
        """Follow the file until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Read the file if it has changed; log one line about each change."""
        state = self._stat()
        if state == self._state:
            return
        self._state = state
        try:
            keys = read_keys(self._path)
        except SettingsError as error:
            log.error("keeping the last valid keys", error=error.message)
            return
        self.ring = KeyRing(keys)
        log.info("keys read", keys=len(keys))

    def _stat(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; None without it. A mounted Secret is a link."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
