"""Tokens on their way to Redis: one call for all logs that have grown meanwhile.

Knows logs, not what is in them nor who reads them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from shared.process.asyncio_tasks import wait_at_most
from shared.protocol import Delta
from shared.queue.token_log import PAGE, TokenLog
from shared.redis.client import UNREACHABLE
from shared.redis.retry import Backoff
from worker.jobs.active_job import ActiveJob
from worker.jobs.job_log import JobLog

REFUSED_RETRY_S = 0.2

log = structlog.get_logger(__name__)


class Outbox:
    """Writes what was put, in order, all that there is at a time."""

    def __init__(self, token_log: TokenLog, worker_id: str) -> None:
        self._token_log = token_log
        self._worker_id = worker_id
        self._grown: set[JobLog] = set()
        self._has_grown = asyncio.Event()

    @asynccontextmanager
    async def open(self, held: ActiveJob) -> AsyncIterator[JobLog]:
        """The job's log for as long as it runs here, begun with what earlier attempts wrote."""
        job_log = JobLog(held, await self._earlier(held))
        try:
            yield job_log
        finally:
            self._grown.discard(job_log)

    async def _earlier(self, held: ActiveJob) -> list[Delta]:
        """Waits until Redis can tell; a job's first lease finds nothing."""
        if held.claimed.earlier_fence == 0:
            return []
        backoff = Backoff()
        while True:
            try:
                return await self._read(held.job.id)
            except UNREACHABLE as error:
                log.warning("a job waits for its log", job_id=held.job.id, error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def _read(self, job_id: str) -> list[Delta]:
        deltas = page = await self._token_log.read(job_id, 0)
        while len(page) == PAGE:
            page = await self._token_log.read(job_id, len(deltas))
            deltas = deltas + page
        return deltas

    def put(self, job_log: JobLog, delta: Delta) -> None:
        job_log.append(delta)
        self._note_growth(job_log)

    def _note_growth(self, job_log: JobLog) -> None:
        self._grown.add(job_log)
        self._has_grown.set()

    async def written(self, job_log: JobLog) -> None:
        """Wait until all of it is in Redis: a terminal event must not overtake it.

        A write that was refused is tried again: this worker may just be claiming the job anew.
        Where it has lost the job for good, whoever waits here is cancelled.
        """
        while not job_log.written.is_set():
            self._note_growth(job_log)
            await wait_at_most(REFUSED_RETRY_S, job_log.written.wait())

    async def run(self) -> None:
        """Write until cancelled; what could not be written while Redis was away stays here."""
        backoff = Backoff()
        while True:
            await self._has_grown.wait()
            try:
                await self._write(list(self._grown))
                backoff.reset()
            except UNREACHABLE as error:
                log.warning("tokens wait for Redis", error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def _write(self, grown: list[JobLog]) -> None:
        additions = [job_log.unwritten() for job_log in grown]
        lengths = await self._token_log.append(self._worker_id, additions) if grown else []
        for job_log, length in zip(grown, lengths, strict=True):
            if length is not None:
                job_log.note_length(length)
            if length is None or job_log.written.is_set():
                self._grown.discard(job_log)
        if not self._grown:
            self._has_grown.clear()
