"""The lane of the queue in which the jobs of batches wait.

Its jobs run in rows that no other job wants. They count neither for the limits of the queue nor for
its estimates.
"""

from enum import StrEnum

from redis.asyncio import Redis

from shared.protocol import ChatJob, encode
from shared.queue.arq_format import pack_job
from shared.queue.keys import JOB_TTL_S, RESULT_TTL_S, Keys
from shared.queue.scripts import Script, Scripts


class Verdict(StrEnum):
    """The fate of a job that was to enter the lane."""

    ACCEPTED = "accepted"
    KNOWN = "known"  # accepted before
    FULL = "full"  # the lane has no place now


class BatchLane:
    """The lane of one queue."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def enqueue(self, job: ChatJob, *, reply_to: str) -> Verdict:
        """Add a job, unless BATCH_LANE_MAX jobs wait; a known id changes nothing.

        `reply_to` is the api replica that wants the job's events.
        """
        deadline_s = JOB_TTL_S if job.deadline_s is None else job.deadline_s
        verdict: bytes = await self._scripts.run(
            Script.ENQUEUE_BATCH_JOB,
            job.id,
            encode(job),
            pack_job(),
            job.cost_rows,
            job.cost_tokens,
            round(1000 * deadline_s),
            1000 * (job.ttl_s or RESULT_TTL_S),
            reply_to,
            job.owner or "",
        )
        return Verdict(verdict.decode())

    async def num_waiting(self) -> int:
        """Return the number of jobs in the lane."""
        return int(await self._redis.zcard(self._keys.batch_lane))
