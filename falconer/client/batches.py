"""Files and batches: `client.files` and `client.batches` of both clients."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx

from falconer.client.batch_calls import BatchCalls, Download, ResultLines
from falconer.client.batch_models import (
    BatchHandle,
    BatchInfo,
    BatchResult,
    BatchSource,
    FileInfo,
)
from falconer.client.calls import new_key
from falconer.client.connections import AsyncConnection, Connection
from falconer.client.errors import BatchFailed


class Files:
    """The files of batches."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._calls = BatchCalls(connection.calls)

    def upload(self, path: Path) -> FileInfo:
        """Store the file of a batch: JSONL, a request per line."""
        return self._connection.run(self._calls.upload(path))

    def get(self, file_id: str) -> FileInfo:
        """Return a file by its id. Raises NotFound."""
        return self._connection.run(self._calls.file(file_id))

    def content(self, file_id: str) -> Iterator[bytes]:
        """Yield the contents in parts, also over broken connections. Raises NotFound."""
        download = Download(file_id, self._connection.calls.retries)
        return self._connection.follow(download, httpx.Response.iter_bytes)

    def delete(self, file_id: str) -> None:
        """Delete a file. A batch that still reads it fails."""
        self._connection.run(self._calls.delete_file(file_id))

    def list(self, *, limit: int = 50) -> Iterator[FileInfo]:
        """Yield at most `limit` files, the newest first."""
        after, has_more = None, True
        while has_more and limit > 0:
            page = self._connection.run(self._calls.file_page(after, limit))
            yield from page.data
            limit, has_more = limit - len(page.data), page.has_more
            after = page.data[-1].id if page.data else None


class Batch(BatchHandle):
    """A created batch."""

    def __init__(self, connection: Connection, info: BatchInfo) -> None:
        super().__init__(info)
        self._connection = connection
        self._calls = BatchCalls(connection.calls)

    def refresh(self) -> BatchInfo:
        """Ask for the present state."""
        self.info = self._connection.run(self._calls.get(self.id))
        return self.info

    def wait(self, timeout: float | None = None) -> BatchInfo:
        """Wait for the end: completed, expired or cancelled, at most `timeout` seconds.

        Raises BatchFailed for a file that is no batch, and WaitTimeout.
        """
        self.info = self._connection.run(self._calls.wait(self.id, timeout))
        return with_results(self.info)

    def results(self) -> Iterator[BatchResult]:
        """Wait for the end and yield a result per line of the file, first the answers."""
        self.wait()
        for file_id in (self.info.output_file_id, self.info.error_file_id):
            if file_id is not None:
                lines = ResultLines()
                for part in Files(self._connection).content(file_id):
                    yield from lines.feed(part)

    def cancel(self) -> BatchInfo:
        """Cancel the batch; it keeps its results. Raises Conflict for a batch that has ended."""
        self.info = self._connection.run(self._calls.cancel(self.id))
        return self.info


class Batches:
    """Many requests in one, answered in rows that no other request wants."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._calls = BatchCalls(connection.calls)

    def submit(
        self,
        source: BatchSource,
        *,
        endpoint: str | None = None,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Create a batch of the requests in a file, in a stored file or in a list.

        The endpoint is the `url` of the first request, else that of chats; a stored file needs it.
        An interrupt cancels the batch, unless the `idempotency_key` is yours.
        An `idempotency_key` of yours needs a stored file.
        """
        call = self._calls.body(source, endpoint, completion_window, metadata, idempotency_key)
        body = self._connection.run(call)
        key = new_key() if idempotency_key is None else idempotency_key
        try:
            return Batch(self._connection, self._connection.run(self._calls.create(body, key)))
        except (KeyboardInterrupt, SystemExit):
            if idempotency_key is None:
                self._connection.run(self._calls.withdraw(body, key))
            raise

    def get(self, batch_id: str) -> Batch:
        """Return a batch by its id. Raises NotFound."""
        return Batch(self._connection, self._connection.run(self._calls.get(batch_id)))

    def list(self, *, limit: int = 50) -> Iterator[BatchInfo]:
        """Yield at most `limit` batches, the newest first."""
        after, has_more = None, True
        while has_more and limit > 0:
            page = self._connection.run(self._calls.page(after, limit))
            yield from page.data
            limit, has_more = limit - len(page.data), page.has_more
            after = page.data[-1].id if page.data else None


class AsyncFiles:
    """The files of batches."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._calls = BatchCalls(connection.calls)

    async def upload(self, path: Path) -> FileInfo:
        """Store the file of a batch: JSONL, a request per line."""
        return await self._connection.run(self._calls.upload(path))

    async def get(self, file_id: str) -> FileInfo:
        """Return a file by its id. Raises NotFound."""
        return await self._connection.run(self._calls.file(file_id))

    def content(self, file_id: str) -> AsyncIterator[bytes]:
        """Yield the contents in parts, also over broken connections. Raises NotFound."""
        download = Download(file_id, self._connection.calls.retries)
        return self._connection.follow(download, httpx.Response.aiter_bytes)

    async def delete(self, file_id: str) -> None:
        """Delete a file. A batch that still reads it fails."""
        await self._connection.run(self._calls.delete_file(file_id))

    async def list(self, *, limit: int = 50) -> AsyncIterator[FileInfo]:
        """Yield at most `limit` files, the newest first."""
        after, has_more = None, True
        while has_more and limit > 0:
            page = await self._connection.run(self._calls.file_page(after, limit))
            for info in page.data:
                yield info
            limit, has_more = limit - len(page.data), page.has_more
            after = page.data[-1].id if page.data else None


class AsyncBatch(BatchHandle):
    """A created batch."""

    def __init__(self, connection: AsyncConnection, info: BatchInfo) -> None:
        super().__init__(info)
        self._connection = connection
        self._calls = BatchCalls(connection.calls)

    async def refresh(self) -> BatchInfo:
        """Ask for the present state."""
        self.info = await self._connection.run(self._calls.get(self.id))
        return self.info

    async def wait(self, timeout: float | None = None) -> BatchInfo:
        """Wait for the end: completed, expired or cancelled, at most `timeout` seconds.

        Raises BatchFailed for a file that is no batch, and WaitTimeout.
        """
        self.info = await self._connection.run(self._calls.wait(self.id, timeout))
        return with_results(self.info)

    async def results(self) -> AsyncIterator[BatchResult]:
        """Wait for the end and yield a result per line of the file, first the answers."""
        await self.wait()
        for file_id in (self.info.output_file_id, self.info.error_file_id):
            if file_id is not None:
                lines = ResultLines()
                async for part in AsyncFiles(self._connection).content(file_id):
                    for result in lines.feed(part):
                        yield result

    async def cancel(self) -> BatchInfo:
        """Cancel the batch; it keeps its results. Raises Conflict for a batch that has ended."""
        self.info = await self._connection.run(self._calls.cancel(self.id))
        return self.info


class AsyncBatches:
    """Many requests in one, answered in rows that no other request wants."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._calls = BatchCalls(connection.calls)

    async def submit(
        self,
        source: BatchSource,
        *,
        endpoint: str | None = None,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncBatch:
        """Create a batch of the requests in a file, in a stored file or in a list.

        The endpoint is the `url` of the first request, else that of chats; a stored file needs it.
        A cancelled task cancels the batch, unless the `idempotency_key` is yours.
        An `idempotency_key` of yours needs a stored file.
        """
        call = self._calls.body(source, endpoint, completion_window, metadata, idempotency_key)
        body = await self._connection.run(call)
        key = new_key() if idempotency_key is None else idempotency_key
        create = self._calls.create(body, key)
        try:
            return AsyncBatch(self._connection, await self._connection.run(create))
        except asyncio.CancelledError:
            if idempotency_key is None:
                await self._connection.run(self._calls.withdraw(body, key))
            raise

    async def get(self, batch_id: str) -> AsyncBatch:
        """Return a batch by its id. Raises NotFound."""
        return AsyncBatch(self._connection, await self._connection.run(self._calls.get(batch_id)))

    async def list(self, *, limit: int = 50) -> AsyncIterator[BatchInfo]:
        """Yield at most `limit` batches, the newest first."""
        after, has_more = None, True
        while has_more and limit > 0:
            page = await self._connection.run(self._calls.page(after, limit))
            for info in page.data:
                yield info
            limit, has_more = limit - len(page.data), page.has_more
            after = page.data[-1].id if page.data else None


def with_results(info: BatchInfo) -> BatchInfo:
    """Return a batch that has ended. Raises BatchFailed if its file was invalid."""
    if info.errors is not None:
        errors = [
            f"{'' if error.line is None else f'line {error.line}: '}{error.message}"
            for error in info.errors.data
        ]
        raise BatchFailed(info.id, errors)
    return info
