"""Write the tokens of running jobs to their logs in Redis: one command for all logs that grew."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog

from shared.process.asyncio_tasks import wait_at_most
from shared.protocol import Delta, encode
from shared.queue.token_log import MAX_AT_ONCE, PAGE, PendingAppend, TokenLog
from shared.redis.retry import retry_until_reachable
from worker.jobs.active_job import ActiveJob

REFUSED_RETRY_S = 0.2

log = structlog.get_logger(__name__)


class JobTokens:
    """All deltas of one job, and how many of them Redis has.

    Keeps the deltas that Redis has, too: Redis may lose its last second.
    """

    def __init__(
        self, active: ActiveJob, earlier: list[Delta], on_growth: Callable[["JobTokens"], None]
    ) -> None:
        self.earlier = earlier  # deltas of an earlier job or attempt
        self._active = active
        self._packed = [encode(delta) for delta in earlier]
        self._num_stored = len(earlier)
        self._stored = asyncio.Event()
        self._stored.set()
        self._on_growth = on_growth

    def append(self, delta: Delta) -> None:
        """Add a delta; `TokenLogWriter.run` writes it."""
        self._packed.append(encode(delta))
        self._stored.clear()
        self._on_growth(self)

    async def flush(self) -> None:
        """Wait until Redis has every delta: a terminal event must not overtake one.

        Redis refuses a write while this worker is claiming the job again, so a refused write is
        repeated. If the worker has lost the job, the run that waits here is cancelled.
        """
        while not self._stored.is_set():
            self._on_growth(self)
            await wait_at_most(REFUSED_RETRY_S, self._stored.wait())

    def pending_append(self, limit: int) -> PendingAppend:
        """Return the next deltas to write, at most `limit`, under the current fencing token."""
        start = self._num_stored
        return (
            self._active.job.id,
            self._active.fencing_token,
            start,
            self._packed[start : start + limit],
        )

    def acknowledge(self, length: int) -> bool:
        """Record that Redis has the first `length` deltas; return whether these are all.

        `length` is smaller than before if Redis lost the end of the log.
        """
        self._num_stored = length
        if length >= len(self._packed):
            self._stored.set()
        return self._stored.is_set()


class TokenLogWriter:
    """Write what was appended, in order, as much as there is at a time."""

    def __init__(self, token_log: TokenLog, worker_id: str) -> None:
        self._token_log = token_log
        self._worker_id = worker_id
        self._grown: dict[JobTokens, None] = {}  # a set that keeps the order of growth
        self._has_grown = asyncio.Event()

    @asynccontextmanager
    async def open(self, active: ActiveJob) -> AsyncIterator[JobTokens]:
        """Yield the job's log, with what it inherited and what earlier attempts wrote to it."""
        tokens = JobTokens(active, await self._earlier(active), self._note_growth)
        try:
            yield tokens
        finally:
            self._grown.pop(tokens, None)

    async def _earlier(self, active: ActiveJob) -> list[Delta]:
        is_first_lease = active.claimed.previous_fencing_token == 0
        if is_first_lease and active.job.inherited_deltas == 0:
            return []
        job_id = active.job.id
        return await retry_until_reachable(
            partial(self._read, job_id),
            log.bind(job_id=job_id),
            "reading the token log failed, will retry",
        )

    async def _read(self, job_id: str) -> list[Delta]:
        deltas = page = await self._token_log.read(job_id, 0)
        while len(page) == PAGE:
            page = await self._token_log.read(job_id, len(deltas))
            deltas = deltas + page
        return deltas

    def _note_growth(self, tokens: JobTokens) -> None:
        self._grown[tokens] = None
        self._has_grown.set()

    async def run(self) -> None:
        """Write until cancelled; tokens wait here while Redis is unreachable."""
        while True:
            await self._has_grown.wait()
            await retry_until_reachable(self._write, log, "writing tokens failed, will retry")

    async def _write(self) -> None:
        appends = self._next_appends()
        if appends:
            await self._append(appends)
        if not self._grown:
            self._has_grown.clear()

    async def _append(self, appends: dict[JobTokens, PendingAppend]) -> None:
        lengths = await self._token_log.append(self._worker_id, list(appends.values()))
        for tokens, length in zip(appends, lengths, strict=True):
            if length is None or tokens.acknowledge(length):
                self._grown.pop(tokens, None)

    def _next_appends(self) -> dict[JobTokens, PendingAppend]:
        """Return what to write next: about MAX_AT_ONCE deltas, of the logs that grew first."""
        appends: dict[JobTokens, PendingAppend] = {}
        left = MAX_AT_ONCE
        for tokens in self._grown:
            if left <= 0:
                break
            appends[tokens] = tokens.pending_append(left)
            left -= len(appends[tokens][-1])
        return appends
