"""The contents of files: in Redis as lists of parts, or in a folder that all replicas share.

`bucket_data` has those in a bucket.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
from redis.asyncio import Redis

from shared.errors import ServiceUnavailable
from shared.queue.keys import FILE_TTL_S, Keys

CHUNK_BYTES = 256 * 1024  # of each part of a file but the last one
PAGE_BYTES = 1024 * 1024  # read from Redis at a time, about
FIRST_PAGE = 4  # parts, before their size is known
MAX_PAGE = 1000
RETRY_AFTER_S = 10
UNFINISHED = "file-*.part"  # names in a folder
ABANDONED_S = 3600  # without a write, after which no upload continues

T = TypeVar("T")

log = structlog.get_logger(__name__)


class FileData(ABC):
    """The contents of files by id."""

    async def check(self) -> None:
        """Check that files can be stored. Raises SettingsError."""
        return

    @abstractmethod
    async def write(self, file_id: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a file whose parts come one after the other; return its length in bytes.

        Nothing of the file stays if an error ends the parts.
        """

    @abstractmethod
    def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on; nothing of an unknown file."""

    @abstractmethod
    async def keep(self, file_id: str, seconds: int) -> None:
        """Keep the file for so many seconds from now."""

    @abstractmethod
    async def delete(self, file_id: str) -> None:
        """Delete the file; an unknown file is no error."""

    async def remove_unfinished(self) -> int:
        """Delete what uploads left whose replica died; return their number."""
        return 0


class RedisFileData(FileData):
    """A list per file; each part but the last has CHUNK_BYTES, except in results of batches."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def write(self, file_id: str, chunks: AsyncIterator[bytes]) -> int:
        num_bytes, key = 0, self._keys.file_data(file_id)
        try:
            async for part in equal_parts(chunks):
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.rpush(key, part)
                    pipe.expire(key, FILE_TTL_S)
                    await pipe.execute()
                num_bytes += len(part)
        except BaseException:
            with suppress(Exception):  # the TTL removes the parts in the end
                await asyncio.shield(self.delete(file_id))
            raise
        return num_bytes

    async def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the parts; an offset above 0 needs parts of CHUNK_BYTES."""
        key, count = self._keys.file_data(file_id), FIRST_PAGE
        start, skipped = divmod(offset, CHUNK_BYTES)
        while True:
            page = self._redis.lrange(key, start, start + count - 1)
            parts = await cast(Awaitable[list[bytes]], page)
            for part in parts:
                yield part[skipped:]
                skipped = 0
            if len(parts) < count:
                return
            start += count
            size = max(1, sum(map(len, parts)) // count)
            count = min(max(1, PAGE_BYTES // size), MAX_PAGE)

    async def keep(self, file_id: str, seconds: int) -> None:
        await self._redis.expire(self._keys.file_data(file_id), seconds)

    async def delete(self, file_id: str) -> None:
        await self._redis.unlink(self._keys.file_data(file_id))


class FolderFileData(FileData):
    """A file in the folder per file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, file_id: str) -> Path:
        return self._folder / file_id

    async def write(self, file_id: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a file. Raises ServiceUnavailable while the folder takes no files."""
        part = self._folder / f"{file_id}.part"
        num_bytes, file = 0, await on_disk(part.open, "wb", 0)
        try:
            async for chunk in chunks:
                await on_disk(write_all, file, chunk)
                num_bytes += len(chunk)
            await on_disk(file.close)
            await on_disk(part.replace, self._path(file_id))
        finally:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                part.unlink()
        return num_bytes

    async def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        try:
            file = await asyncio.to_thread(self._path(file_id).open, "rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    async def keep(self, file_id: str, seconds: int) -> None:
        """Do nothing: `FileStore.remove_expired` deletes a file after its entry has expired."""

    async def delete(self, file_id: str) -> None:
        await on_disk(partial(self._path(file_id).unlink, missing_ok=True))

    async def remove_unfinished(self) -> int:
        return await asyncio.to_thread(self._remove_unfinished)

    def _remove_unfinished(self) -> int:
        """Delete old parts, as other replicas may write the others."""
        num_removed = 0
        for part in self._folder.glob(UNFINISHED):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > ABANDONED_S:
                    part.unlink()
                    num_removed += 1
        return num_removed


async def on_disk(function: Callable[..., T], *args: Any) -> T:
    """Call a function that writes, in a thread. Raises ServiceUnavailable if it fails.

    A full disk or an unreachable folder may recover: clients and batches try again.
    """
    try:
        return await asyncio.to_thread(function, *args)
    except OSError as error:
        log.error("cannot write files", error=str(error))
        reason = f"files cannot be written: {error.strerror}"
        raise ServiceUnavailable(reason, retry_after_s=RETRY_AFTER_S) from error


def write_all(file: FileIO, chunk: bytes) -> None:
    """Write the whole chunk; an unbuffered file may take a part of it."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


async def equal_parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same bytes in parts of CHUNK_BYTES; only the last one may be shorter."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)
