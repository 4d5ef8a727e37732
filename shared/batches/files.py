"""The files of clients and of batches: an entry in Redis each, and their contents."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import msgspec
from redis.asyncio import Redis

from shared.access.api_keys import Caller
from shared.batches.file_data import FileData, RedisFileData
from shared.batches.ids import PageRequest, new_id, page_of_ids
from shared.queue.keys import OWNER_BATCHES_TTL_S, Keys

PREFIX = "file-"
INPUT, OUTPUT = "batch", "batch_output"  # purposes
EXPIRED_AT_ONCE = 500  # entries looked at in one command


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file. Times are Unix seconds."""

    id: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: int
    expires_at: int
    owner: str | None = None  # name of the API key that uploaded it, or that created its batch


@dataclass(frozen=True, slots=True)
class FileProperties:
    """What a client says of a file."""

    filename: str
    purpose: str
    ttl_s: int


class FileStore:
    """The files of one queue, the contents in Redis unless `data` is given."""

    def __init__(self, redis: Redis, keys: Keys, data: FileData | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._caller = Caller()
        self._results = RedisFileData(redis, keys)  # of running batches
        self._data = data or self._results

    async def check(self) -> None:
        """Check that files can be stored. Raises SettingsError."""
        await self._data.check()

    def seen_by(self, caller: Caller) -> Self:
        """Return a view that finds the files of the caller, and creates files for it."""
        view = copy.copy(self)
        view._caller = caller
        return view

    async def create(
        self, chunks: AsyncIterator[bytes], about: Callable[[], FileProperties]
    ) -> StoredFile:
        """Store a file whose parts come one after the other. Nothing stays after an error.

        `about` is called after the last part.
        """
        file_id = new_id(PREFIX)
        num_bytes = await self._data.write(file_id, chunks)
        try:
            return await self._publish(file_id, about(), num_bytes, self._caller.name)
        except BaseException:
            with suppress(Exception):  # the TTL removes the contents in the end
                await asyncio.shield(self._data.delete(file_id))
            raise

    async def publish_results(
        self, file_id: str, *, filename: str, num_bytes: int, ttl_s: int, owner: str | None
    ) -> StoredFile:
        """Make the results of a batch a file; a repeated call changes nothing else."""
        if self._data is not self._results and await self.get(file_id) is None:
            await self._data.write(file_id, self._results.read(file_id))
            await self._results.delete(file_id)
        about = FileProperties(filename, OUTPUT, ttl_s)
        return await self._publish(file_id, about, num_bytes, owner)

    async def _publish(
        self, file_id: str, about: FileProperties, num_bytes: int, owner: str | None
    ) -> StoredFile:
        seconds, _ = await self._redis.time()
        file = StoredFile(
            id=file_id,
            filename=about.filename,
            purpose=about.purpose,
            num_bytes=num_bytes,
            created_at=int(seconds),
            expires_at=int(seconds) + about.ttl_s,
            owner=owner,
        )
        await self._data.keep(file_id, about.ttl_s)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.file(file_id), msgspec.msgpack.encode(file), ex=about.ttl_s)
            pipe.zadd(self._keys.files, {file_id: 0})
            if owner is not None:
                pipe.zadd(self._keys.files_of(owner), {file_id: 0})
                pipe.expire(self._keys.files_of(owner), OWNER_BATCHES_TTL_S)
            await pipe.execute()
        return file

    async def keep_until(self, file: StoredFile, expires_at: int) -> None:
        """Keep the file at least until then, in Unix seconds."""
        ttl_s = expires_at - file.created_at
        if expires_at > file.expires_at:
            kept = msgspec.structs.replace(file, expires_at=expires_at)
            await self._redis.set(
                self._keys.file(file.id), msgspec.msgpack.encode(kept), ex=ttl_s, xx=True
            )
            if file.owner is not None:
                await self._redis.expire(self._keys.files_of(file.owner), OWNER_BATCHES_TTL_S)
            await self._data.keep(file.id, ttl_s)

    async def get(self, file_id: str) -> StoredFile | None:
        [file] = await self._entries([file_id])
        return file if file is not None and self._sees(file) else None

    def _sees(self, file: StoredFile) -> bool:
        return self._caller.sees in (None, file.owner)

    async def _entries(self, ids: Iterable[str]) -> list[StoredFile | None]:
        entries = await self._redis.mget([self._keys.file(one) for one in ids])
        return [
            None if entry is None else msgspec.msgpack.decode(entry, type=StoredFile)
            for entry in entries
        ]

    async def page(
        self, request: PageRequest, purpose: str | None = None
    ) -> tuple[list[StoredFile], bool]:
        """Return a page of files, and whether further files follow."""
        found: list[StoredFile] = []
        after, owner = request.after, self._caller.sees
        key = self._keys.files if owner is None else self._keys.files_of(owner)
        while True:
            part = PageRequest(EXPIRED_AT_ONCE, after, request.oldest_first)
            ids = await page_of_ids(self._redis, key, part)
            for file_id, file in zip(ids, await self._entries(ids) if ids else [], strict=True):
                if file is None and owner is not None:
                    await self._redis.zrem(key, file_id)  # it has expired, or was deleted
                elif file is not None and purpose in (None, file.purpose):
                    found.append(file)
            if len(found) > request.limit or len(ids) < EXPIRED_AT_ONCE:
                return found[: request.limit], len(found) > request.limit
            after = ids[-1]

    def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the contents from `offset` on; an output file is read from its start only."""
        return self._data.read(file_id, offset)

    async def delete(self, file_id: str) -> None:
        """Delete a file; if its contents cannot be deleted now, `remove_expired` does it later."""
        [file] = await self._entries([file_id])
        await self._redis.delete(self._keys.file(file_id))
        await self._data.delete(file_id)
        await self._redis.zrem(self._keys.files, file_id)
        if file is not None and file.owner is not None:
            await self._redis.zrem(self._keys.files_of(file.owner), file_id)

    async def remove_expired(self) -> int:
        """Delete what is left of expired files and of unfinished uploads; return their number."""
        num_removed, after = await self._data.remove_unfinished(), None
        while True:
            request = PageRequest(EXPIRED_AT_ONCE, after, oldest_first=True)
            ids = await page_of_ids(self._redis, self._keys.files, request)
            if not ids:
                return num_removed
            for file_id, entry in zip(ids, await self._entries(ids), strict=True):
                if entry is None:
                    await self.delete(file_id)
                    num_removed += 1
            after = ids[-1]
