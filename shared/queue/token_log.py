"""The token log of a job: a Redis list of its deltas, in order.

The owner of the job's lease appends to it. Every api replica can read it from any index, until the
result expires.
"""

from collections.abc import Awaitable, Sequence
from typing import cast

from redis.asyncio import Redis

from shared.protocol import Delta, decode_delta
from shared.queue.keys import UNFINISHED_JOB_TTL_S, Keys
from shared.queue.scripts import Script, Scripts

PAGE = 500  # deltas read at a time
# Deltas written at a time: Redis needs about 5 ms for them. Redis closes a connection that sends a
# million values, and Lua's `unpack` limits a stream entry to fewer than 4,000 jobs.
MAX_AT_ONCE = 1000


# What to add to one job's log: job id, fencing token, index of the first delta, packed deltas.
PendingAppend = tuple[str, int, int, list[bytes]]


class TokenLog:
    """The logs of all jobs of one queue."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def append(self, worker_id: str, appends: Sequence[PendingAppend]) -> list[int | None]:
        """Add to the logs of several jobs in one command, and send the deltas to their subscribers.

        `appends` should hold little more than MAX_AT_ONCE deltas. Returns the new length of each
        log, or None where the worker does not own the lease; then nothing was written. A log
        shorter than an append's index has lost its end with Redis. Such a log gets nothing, and
        the worker must send the deltas from the returned length on. A repeated call changes
        nothing.
        """
        args: list[str | int | bytes] = []
        for job_id, fencing_token, index, deltas in appends:
            args += [job_id, fencing_token, index, len(deltas), *deltas]
        lengths: list[int | None] = await self._scripts.run(Script.APPEND_TOKENS, worker_id, *args)
        return lengths

    async def read(self, job_id: str, start: int) -> list[Delta]:
        """Return up to PAGE deltas from index `start`."""
        page = self._redis.lrange(self._keys.token_log(job_id), start, start + PAGE - 1)
        # redis-py types it as maybe not awaitable
        return [decode_delta(packed) for packed in await cast(Awaitable[list[bytes]], page)]

    async def share(self, digest: str, job_id: str) -> None:
        """Let later requests with this digest use the log of a job."""
        await self._redis.set(self._keys.reusable(digest), job_id, ex=UNFINISHED_JOB_TTL_S)

    async def shared_by(self, digest: str) -> str | None:
        """Return the id of the latest job with this digest; it may have failed or expired."""
        job_id: bytes | None = await self._redis.get(self._keys.reusable(digest))
        return None if job_id is None else job_id.decode()

    async def length(self, job_id: str) -> int:
        return await cast(Awaitable[int], self._redis.llen(self._keys.token_log(job_id)))
