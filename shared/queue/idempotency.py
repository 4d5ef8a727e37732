"""Which job an Idempotency-Key stands for: what `enqueue.lua` noted, read without enqueueing."""

from redis.asyncio import Redis

from shared.queue.job_queue import Fingerprint
from shared.queue.keys import Keys


class IdempotencyKeys:
    """Those of one queue. Errors of Redis pass through."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def job_id(self, fingerprint: Fingerprint) -> str | None:
        """Of the job that this very call brought, though it may be gone; None for another body."""
        noted: bytes | None = await self._redis.get(self._keys.idempotency(fingerprint.key_digest))
        job_id, _, body_digest = (noted or b"").decode().partition(" ")
        return job_id if body_digest == fingerprint.body_digest else None
