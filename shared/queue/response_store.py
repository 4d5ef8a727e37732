"""What `/v1/responses` stores of a request, next to its job and as long as the result.

`JobQueue.enqueue` writes it together with the job. Its content is the api's own.
"""

from redis.asyncio import Redis

from shared.queue.keys import Keys
from shared.queue.scripts import Script, Scripts


class ResponseStore:
    """The stored requests of one queue's responses."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def get(self, job_id: str) -> bytes | None:
        request: bytes | None = await self._redis.get(self._keys.response(job_id))
        return request

    async def delete(self, job_id: str) -> None:
        """Delete the request, and the result and tokens of its job, which should be cancelled.

        If the job has not ended, its result expires at its end. A repeated call changes nothing.
        """
        await self._scripts.run(Script.DELETE, job_id)
