"""The token log of a job: a Redis list of its deltas, each at the place that its index names.

Whoever has the job's lease adds to it. Anybody reads it, from any index on, while the job runs and
for as long as its result is kept. Knows nothing of text or tokens.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from shared.keys import Keys
from shared.protocol import Delta, decode_delta
from shared.scripts import Script, Scripts

PAGE = 500  # deltas read at a time


@dataclass(frozen=True, slots=True)
class Addition:
    """Packed deltas for a job's log; the first one belongs at `index`."""

    job_id: str
    fence: int
    index: int
    deltas: list[bytes]


class TokenLog:
    """The logs of all jobs of one queue."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def append(self, worker_id: str, additions: Sequence[Addition]) -> list[int | None]:
        """Add to the logs of several jobs and tell their watchers, all in one call.

        Returns how long each log is then; None where the job is not this worker's, and nothing was
        written. A log that is shorter than `index` lost its end when Redis did: it got nothing,
        and the worker should send from there. Repeating a call changes nothing.
        """
        args: list[str | int | bytes] = []
        for each in additions:
            args += [each.job_id, each.fence, each.index, len(each.deltas), *each.deltas]
        lengths: list[int | None] = await self._scripts.run(Script.APPEND, worker_id, *args)
        return lengths

    async def read(self, job_id: str, start: int) -> list[Delta]:
        """The deltas from `start` on, PAGE of them or as many as there are."""
        page = self._redis.lrange(self._keys.token_log(job_id), start, start + PAGE - 1)
        # redis-py types it as maybe not awaitable
        return [decode_delta(packed) for packed in await cast(Awaitable[list[bytes]], page)]
