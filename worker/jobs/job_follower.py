"""Take the tokens of another job of the same request, while it runs or after it has succeeded.

A request with a seed, or in greedy decoding, has the same tokens in every run on the same model.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import structlog

from shared.protocol import Delta, JobRecord, JobStatus, Succeeded
from shared.queue.job_queue import JobQueue
from shared.queue.token_log import TokenLog
from shared.redis.retry import retry_until_reachable
from shared.registry.worker_registry import Registry
from worker.jobs.active_job import ActiveJob

POLL_S = 0.1
# A job without a new token for so long is followed no further: its worker may have died, and the
# capacity that it needs may be that of the followers.
PATIENCE_S = 3.0

log = structlog.get_logger(__name__)


class JobFollower:
    """Follow jobs that run on a model, on any worker."""

    def __init__(
        self, queue: JobQueue, token_log: TokenLog, registry: Registry, card_hash: str
    ) -> None:
        self._queue = queue
        self._token_log = token_log
        self._registry = registry
        self._card_hash = card_hash

    async def deltas(
        self, active: ActiveJob, adapter: str | None, start: int
    ) -> AsyncIterator[list[Delta]]:
        """Yield the deltas from index `start` on of the job that `active` has joined.

        End when there will be no more, or none for PATIENCE_S. `adapter` is the version that the
        worker uses.
        """
        job_id, news_at = active.job.joined_to, time.monotonic()
        while job_id is not None and active.may_generate:
            deltas, is_running = await retry_until_reachable(
                partial(self._read, job_id, adapter, active.job.adapter == adapter, start),
                log.bind(job_id=active.job.id),
                "following another job failed, will retry",
            )
            if deltas:
                yield deltas
                start, news_at = start + len(deltas), time.monotonic()
            elif not is_running or time.monotonic() - news_at > PATIENCE_S:
                return
            else:
                await asyncio.sleep(POLL_S)

    async def _read(
        self, job_id: str, adapter: str | None, has_one_version: bool, start: int
    ) -> tuple[list[Delta], bool]:
        """Return the next deltas that this model made, and whether there may be more."""
        record = await self._queue.record(job_id)  # first: the log of an ended job is complete
        if record is None:
            return [], False
        is_running = record.status is JobStatus.RUNNING
        if is_running:
            is_same = has_one_version and await self._runs_on_this_model(record)
        else:
            is_same = self._ran_on_this_model(record, adapter)
        return (await self._token_log.read(job_id, start), is_running) if is_same else ([], False)

    async def _runs_on_this_model(self, record: JobRecord) -> bool:
        if record.worker is None:
            return False
        return await self._registry.card_hash_of(record.worker) == self._card_hash

    def _ran_on_this_model(self, record: JobRecord, adapter: str | None) -> bool:
        run = record.outcome.run if isinstance(record.outcome, Succeeded) else None
        return run is not None and (run.card_hash, run.adapter) == (self._card_hash, adapter)
