"""Run one batch under its lease: check the file, answer the lines, publish the results.

Everything that the run needs to know is in Redis, so it may end at any moment and continue on any
replica: the status, the lines with results, and the first line without one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import structlog

from api.batches.line_jobs import (
    CANCELLED,
    EXPIRED,
    LineJobs,
    SubmittedLine,
    job_id_of,
    refused_line,
)
from api.batches.line_reader import (
    Checked,
    Progress,
    RawLine,
    check_lines,
    read_lines,
    reader_of,
    request_of,
)
from api.openai.batches.lines import InvalidLine, NoResponse, result_line
from shared.batches.batches import (
    Batch,
    BatchLease,
    BatchSpec,
    BatchStore,
    LineResult,
    Place,
)
from shared.batches.files import FileStore
from shared.batches.status import BatchStatus
from shared.errors import ClientError, ServiceUnavailable
from shared.process.asyncio_tasks import cancel_all
from shared.redis.retry import retry_until_reachable

WRITTEN_AT_ONCE = 100  # results
WRITTEN_BYTES = 4 * 1024 * 1024  # of results at a time, about
STALLED_S = 5.0  # without a new line or result
WAIT_S = 0.5  # for a result, before the time and the status are looked at
LOST_FILE = InvalidLine("input_file_deleted", "the input file was deleted before the batch ended")
BROKEN = NoResponse(code="internal_error", message="internal error, see the log of the server")

log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """Another replica runs the batch."""


class BatchRun:
    """The run of one batch on this replica."""

    def __init__(
        self,
        store: BatchStore,
        files: FileStore,
        jobs: LineJobs,
        lease: BatchLease,
        slots: asyncio.Semaphore,
        max_line_bytes: int,
    ) -> None:
        """Run with the files and jobs of this replica; each line under way takes one of `slots`."""
        self.lease = lease
        self.status: BatchStatus | None = None  # as the latest renewal of the lease saw it
        self._store = store
        self._files = files
        self._jobs = jobs
        self._slots = slots
        self._max_line_bytes = max_line_bytes
        self._results: asyncio.Queue[LineResult] = asyncio.Queue()
        self._answers: set[asyncio.Task[None]] = set()
        self._submitted: dict[int, SubmittedLine] = {}
        self._expires = 0.0  # monotonic seconds
        self._moved_at: float | None = None  # monotonic seconds; None while no lines are answered

    @property
    def is_stalled(self) -> bool:
        """Return whether the batch waits: for a worker, or for a place in a full lane."""
        return self._moved_at is not None and time.monotonic() - self._moved_at > STALLED_S

    async def run(self) -> None:
        """Continue the batch until it has ended. Raises LeaseLost, and the errors of Redis."""
        phases: dict[BatchStatus, Callable[[Batch], Awaitable[None]]] = {
            BatchStatus.VALIDATING: self._validate,
            BatchStatus.IN_PROGRESS: self._process,
            BatchStatus.FINALIZING: self._finalize,
            BatchStatus.CANCELLING: self._cancel,
        }
        while True:
            batch = await self._store.get(self.lease.batch_id)
            if batch is None or batch.status.is_final:
                return
            self.status = batch.status
            now_s, _ = await self._store.redis.time()
            self._expires = time.monotonic() + batch.spec.expires_at - int(now_s)
            await phases[batch.status](batch)

    def _seconds_left(self) -> float:
        return self._expires - time.monotonic()

    def _lines(self, spec: BatchSpec, start: Place) -> AsyncIterator[RawLine]:
        parts = self._files.read(spec.input_file_id, start.offset)
        return read_lines(parts, start, self._max_line_bytes)

    # -- validating ------------------------------------------------------------------------------

    async def _validate(self, batch: Batch) -> None:
        """Check every line; a line without a request fails the batch."""
        checked = Checked(errors=[LOST_FILE.at(None)])
        if await self._files.get(batch.spec.input_file_id) is not None:
            checked = await check_lines(self._lines(batch.spec, Place()), batch.spec.endpoint)
        fields: dict[str, Any] = {"total": checked.total, "model": checked.model or ""}
        status = BatchStatus.IN_PROGRESS
        if checked.errors:
            status, fields["errors"] = BatchStatus.FAILED, msgspec.json.encode(checked.errors)
        await self._store.move(self.lease, status, [batch.status], **fields)

    # -- in progress -----------------------------------------------------------------------------

    async def _process(self, batch: Batch) -> None:
        """Answer every line that has no result, until the batch expires or is cancelled."""
        num_readers = len(self._jobs.models) + 1  # the last one submits lines that name adapters
        progress = await self._progress_of(batch, num_readers)
        readers = [
            asyncio.create_task(self._submit_lines(batch.spec, progress, reader))
            for reader in range(num_readers)
        ]
        self._moved_at = time.monotonic()
        try:
            while not (has_all := _all_done(readers) and progress.is_idle):
                if self._seconds_left() <= 0 or self.status is BatchStatus.CANCELLING:
                    break
                await self._write(batch.spec, await self._next_results(), progress)
        finally:
            self._moved_at = None
            under_way = [*self._submitted.values()]
            await cancel_all([*readers, *self._answers])
        if not has_all:
            for line in under_way:
                await self._jobs.cancel(line)
        await self._leave_progress(batch, has_all, progress.next.line)

    async def _leave_progress(self, batch: Batch, has_all: bool, num_read: int) -> None:
        """Move the batch on: its lines are answered, its time has passed, or it is cancelled."""
        fields: dict[str, Any] = {"final": BatchStatus.COMPLETED}
        if has_all and num_read < batch.counts["total"]:
            packed = msgspec.json.encode([LOST_FILE.at(None)])
            fields = {"final": BatchStatus.FAILED, "errors": packed}
        elif not has_all:
            if self.status is BatchStatus.CANCELLING:
                return
            await self._fail_rest(batch, EXPIRED)
            fields = {"final": BatchStatus.EXPIRED}
        await self._store.move(self.lease, BatchStatus.FINALIZING, [batch.status], **fields)

    async def _progress_of(self, batch: Batch, num_readers: int = 1) -> Progress:
        counts = batch.counts
        start = Place(counts.get("next_line", 0), counts.get("next_offset", 0))
        with_results = await self._store.lines_with_results(batch.spec.id)
        return Progress(start, with_results, num_readers)

    async def _submit_lines(self, spec: BatchSpec, progress: Progress, reader: int) -> None:
        """Submit the lines of one model, so that a full lane delays no other model's lines."""
        async for raw in self._lines(spec, progress.next):
            is_mine = reader_of(raw, spec.endpoint, self._jobs.models) == reader
            if progress.has_result(raw.place.line) or not is_mine:
                progress.skip(raw.end, reader)
                continue
            await self._slots.acquire()
            progress.begin(raw.place, raw.end, reader)
            task = asyncio.create_task(self._answer(raw, spec, submitted := asyncio.Event()))
            self._answers.add(task)
            task.add_done_callback(self._forget)
            await submitted.wait()  # lines enter the lane one after the other
            self._moved_at = time.monotonic()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._answers.discard(task)
        self._slots.release()

    async def _answer(self, raw: RawLine, spec: BatchSpec, submitted: asyncio.Event) -> None:
        """Put the result of a line into the results, however long Redis is unreachable."""
        number = raw.place.line
        try:
            line = request_of(raw, spec.endpoint)
            submit = partial(self._jobs.submit, line, spec, number, self._seconds_left)
            waiting = await self._reach(submit, spec)
            self._submitted[number] = waiting
            submitted.set()
            result = await self._jobs.answer(waiting)
        except ClientError as error:
            result = refused_line(number, line.custom_id, error, job_id_of(spec.id, number))
        except InvalidLine as error:  # a file in a folder changed after it was checked
            lost = NoResponse(code=error.code, message=error.message)
            result = LineResult(number, False, result_line("", error=lost))
        except Exception as error:  # isolates the line
            log.error("line of a batch failed", batch=spec.id, line=number, exc_info=error)
            result = LineResult(number, False, result_line(line.custom_id, error=BROKEN))
        finally:
            submitted.set()
            self._submitted.pop(number, None)
        self._results.put_nowait(result)

    async def _reach(
        self, submit: Callable[[], Awaitable[SubmittedLine]], spec: BatchSpec
    ) -> SubmittedLine:
        bound = log.bind(batch=spec.id)
        event = "a line of a batch waits for Redis"
        return await retry_until_reachable(submit, bound, event, on=(ServiceUnavailable,))

    async def _next_results(self) -> list[LineResult]:
        """Return the results that are there, or the next one; none after WAIT_S."""
        results: list[LineResult] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                results.append(await self._results.get())
        num_bytes = sum(len(one.data) for one in results)
        while len(results) < WRITTEN_AT_ONCE and num_bytes < WRITTEN_BYTES:
            if self._results.empty():
                break
            results.append(self._results.get_nowait())
            num_bytes += len(results[-1].data)
        return results

    async def _write(self, spec: BatchSpec, results: list[LineResult], progress: Progress) -> None:
        if not results:
            return
        for one in results:
            progress.end(one.line)
        status = await self._store.append(self.lease, spec, results, progress.reached)
        if status is None:
            raise LeaseLost
        self.status, self._moved_at = status, time.monotonic()

    # -- the end ---------------------------------------------------------------------------------

    async def _cancel(self, batch: Batch) -> None:
        await self._fail_rest(batch, CANCELLED)
        await self._publish(batch.spec)
        await self._store.move(self.lease, BatchStatus.CANCELLED, [batch.status])

    async def _finalize(self, batch: Batch) -> None:
        await self._publish(batch.spec)
        final = batch.final or BatchStatus.COMPLETED
        await self._store.move(self.lease, final, [batch.status])

    async def _fail_rest(self, batch: Batch, reason: NoResponse) -> None:
        """Give every line without a result this error."""
        progress, results = await self._progress_of(batch), list[LineResult]()
        async for raw in self._lines(batch.spec, progress.next):
            if not progress.has_result(raw.place.line):
                with suppress(InvalidLine):
                    line = request_of(raw, batch.spec.endpoint)
                    data = result_line(line.custom_id, error=reason)
                    results.append(LineResult(raw.place.line, False, data))
            progress.skip(raw.end)
            if len(results) == WRITTEN_AT_ONCE:
                await self._append_all(batch.spec, results, progress.next)
                results = []
        await self._append_all(batch.spec, results, progress.next)

    async def _append_all(self, spec: BatchSpec, results: list[LineResult], end: Place) -> None:
        if results and await self._store.append(self.lease, spec, results, end) is None:
            raise LeaseLost

    async def _publish(self, spec: BatchSpec) -> None:
        """Make files of the results; a file without lines does not exist."""
        batch = await self._store.get(spec.id)
        counts = {} if batch is None else batch.counts
        for file_id, kind in ((spec.output_file_id, "output"), (spec.error_file_id, "error")):
            if num_bytes := counts.get(f"{kind}_bytes", 0):
                await self._files.publish_results(
                    file_id,
                    filename=f"{spec.id}_{kind}.jsonl",
                    num_bytes=num_bytes,
                    ttl_s=spec.output_ttl_s,
                    owner=spec.owner,
                )


def _all_done(tasks: list[asyncio.Task[None]]) -> bool:
    """Return whether all tasks have ended. Raises the error of a failed task."""
    ended = [task for task in tasks if task.done()]
    for task in ended:
        task.result()
    return len(ended) == len(tasks)
