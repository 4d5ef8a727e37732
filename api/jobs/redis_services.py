"""What the api needs from Redis, in one place: queue, registry, replies; knows no HTTP."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from api.settings import ApiSettings
from shared.errors import ServiceUnavailable
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.reply_stream import BLOCK_S, ReplyStream
from shared.queue.token_log import TokenLog
from shared.queue.worker_registry import Registry
from shared.redis.client import UNREACHABLE

REACH_S = 1.8  # a caller hears within two seconds that Redis is away
RETRY_AFTER_S = 2
OUT_OF_REACH = "Redis is out of reach, try again"
MAX_REFUSAL = 200  # characters

log = structlog.get_logger(__name__)


class Connect(Protocol):
    """How to get a client; see `shared.redis.client.connect`."""

    def __call__(self, url: str, *, name: str, block_s: float = 0.0) -> Redis: ...


class Backend:
    """Clients of one api replica. Nothing is sent before the first use."""

    def __init__(self, settings: ApiSettings, connect: Connect) -> None:
        keys = Keys(settings.queue)
        self.replica_id = uuid.uuid4().hex
        self._redis = connect(settings.redis_url, name="falconer-api")
        self._blocking_redis = connect(
            settings.redis_url, name="falconer-api-replies", block_s=BLOCK_S
        )
        self.queue = JobQueue(self._redis, keys)
        self.registry = Registry(self._redis, keys)
        self.token_log = TokenLog(self._redis, keys)
        self.replies = ReplyStream(self._blocking_redis, keys, self.replica_id)

    async def ping(self) -> None:
        await self._redis.ping()

    async def close(self) -> None:
        """Leave Redis, which may be out of reach."""
        for client in (self._redis, self._blocking_redis):
            with suppress(*UNREACHABLE):
                await client.aclose()


@asynccontextmanager
async def within_reach(timeout_s: float = REACH_S) -> AsyncIterator[None]:
    """Around calls to Redis: one that fails or hangs becomes ServiceUnavailable, soon."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except ResponseError as error:  # Redis is there, and refuses: out of memory, a bug
        log.error("redis refused a command", error=str(error))
        raise ServiceUnavailable(
            f"Redis refuses writes: {refusal(error)}", retry_after_s=RETRY_AFTER_S
        ) from error
    except UNREACHABLE as error:
        raise ServiceUnavailable(OUT_OF_REACH, retry_after_s=RETRY_AFTER_S) from error


def refusal(error: ResponseError) -> str:
    """Redis's own words, without those on the script they came through."""
    return str(error).rpartition(": -")[2].partition(" script: ")[0][:MAX_REFUSAL]
