"""The token log of a job: a Redis list of its deltas, each at the place that its index names.

Whoever has the job's lease adds to it. Anybody reads it, from any index on, while the job runs and
for as long as its result is kept. Knows nothing of text or tokens.
"""

from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from shared.protocol import Delta, decode_delta
from shared.queue.keys import Keys
from shared.queue.scripts import Script, Scripts

PAGE = 500  # deltas read at a time
# Deltas written at a time, some 5 ms of Redis. It cuts off who sends a million values, and a script
# can tell a replica of fewer than 4,000 jobs in one entry.
MAX_AT_ONCE = 1000


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
        """Add to the logs of several jobs and tell their watchers, in one command if Redis can.

        Returns how long each log is then; None where the job is not this worker's, and nothing was
        written. A log that is shorter than `index` lost its end when Redis did: it got nothing,
        and the worker should send from there. Repeating a call changes nothing.
        """
        lengths: list[int | None] = []
        for portion in in_portions(additions):
            args: list[str | int | bytes] = []
            for each in portion:
                args += [each.job_id, each.fence, each.index, len(each.deltas), *each.deltas]
            lengths += await self._scripts.run(Script.APPEND, worker_id, *args)
        return lengths

    async def read(self, job_id: str, start: int) -> list[Delta]:
        """The deltas from `start` on, PAGE of them or as many as there are."""
        page = self._redis.lrange(self._keys.token_log(job_id), start, start + PAGE - 1)
        # redis-py types it as maybe not awaitable
        return [decode_delta(packed) for packed in await cast(Awaitable[list[bytes]], page)]

    async def length(self, job_id: str) -> int:
        return await cast(Awaitable[int], self._redis.llen(self._keys.token_log(job_id)))


def in_portions(additions: Sequence[Addition]) -> Iterator[list[Addition]]:
    """Of MAX_AT_ONCE deltas, or a few more: a job's own are not divided."""
    portion: list[Addition] = []
    num_deltas = 0
    for addition in additions:
        portion.append(addition)
        num_deltas += len(addition.deltas)
        if num_deltas >= MAX_AT_ONCE:
            yield portion
            portion, num_deltas = [], 0
    if portion:
        yield portion
