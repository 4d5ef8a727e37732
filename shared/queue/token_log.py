"""The token log of a job: a Redis list of its deltas, in order.

The owner of the job's lease appends to it. Every api replica can read it from any index, until the
result expires.
"""

from collections.abc import Awaitable, Sequence
from typing import cast

from redis.asyncio import Redis

from shared.protocol import Delta, decode_delta
from shared.queue.keys import Keys
from shared.queue.scripts import Script, Scripts

PAGE = 500  # deltas read at a time
# Deltas written at a time, about 5 ms of Redis. It closes connections that send a million values,
# and a script can address fewer than 4,000 jobs in one stream entry.
MAX_AT_ONCE = 1000


# What to add to one job's log: job id, fencing token, index of the first delta, packed deltas.
Tail = tuple[str, int, int, list[bytes]]


class TokenLog:
    """The logs of all jobs of one queue."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def append(self, worker_id: str, tails: Sequence[Tail]) -> list[int | None]:
        """Add to the logs of several jobs in one command, and send the deltas to their watchers.

        `tails` should hold little more than MAX_AT_ONCE deltas. Returns the new length of each log;
        None where the worker does not own the job, and nothing was written. A log shorter than a
        tail's index has lost its end with Redis: it got nothing, and the worker must send the rest
        from there. Repeating a call changes nothing.
        """
        args: list[str | int | bytes] = []
        for job_id, fencing_token, index, deltas in tails:
            args += [job_id, fencing_token, index, len(deltas), *deltas]
        lengths: list[int | None] = await self._scripts.run(Script.APPEND_TOKENS, worker_id, *args)
        return lengths

    async def read(self, job_id: str, start: int) -> list[Delta]:
        """Return up to PAGE deltas from index `start`."""
        page = self._redis.lrange(self._keys.token_log(job_id), start, start + PAGE - 1)
        # redis-py types it as maybe not awaitable
        return [decode_delta(packed) for packed in await cast(Awaitable[list[bytes]], page)]

    async def length(self, job_id: str) -> int:
        return await cast(Awaitable[int], self._redis.llen(self._keys.token_log(job_id)))
