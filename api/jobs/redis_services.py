"""The services in Redis that the api uses: queue, model registry, token logs and reply stream."""

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from api.settings import ApiSettings
from shared.access.api_keys import Caller
from shared.batches.batches import BatchStore
from shared.batches.file_data import FileData, FolderFileData
from shared.batches.files import FileStore
from shared.batches.lane import BatchLane
from shared.errors import ServiceUnavailable
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.reply_stream import BLOCK_S, ReplyStream
from shared.queue.token_log import TokenLog
from shared.redis.client import UNREACHABLE
from shared.registry.adapter_registry import AdapterRegistry
from shared.registry.worker_registry import Registry

REDIS_TIMEOUT_S = 1.8  # a client gets the 503 of an outage within two seconds
RETRY_AFTER_S = 2
REDIS_UNREACHABLE = "Redis is unreachable, try again"
MAX_REFUSAL = 200  # characters

log = structlog.get_logger(__name__)


class Connect(Protocol):
    """Return a client, as `shared.redis.client.connect` does."""

    def __call__(self, url: str, *, name: str, block_s: float = 0.0) -> Redis: ...


@dataclass(frozen=True, slots=True)
class ModelServices:
    """The queue of one model, and its workers."""

    name: str | None  # in the records of its jobs; None for the first model
    queue: JobQueue
    lane: BatchLane
    registry: Registry
    adapters: AdapterRegistry

    @classmethod
    def connected(cls, redis: Redis, keys: Keys) -> "ModelServices":
        return cls(
            keys.model or None,
            JobQueue(redis, keys),
            BatchLane(redis, keys),
            Registry(redis, keys),
            AdapterRegistry(redis, keys),
        )


class RedisServices:
    """The services of one api replica, on two clients. Nothing is sent before the first use."""

    def __init__(self, settings: ApiSettings, connect: Connect) -> None:
        keys = Keys(settings.queue)
        self.replica_id = uuid.uuid4().hex
        self._redis = connect(settings.redis_url, name="falconer-api")
        self._blocking_redis = connect(
            settings.redis_url, name="falconer-api-replies", block_s=BLOCK_S
        )
        self.models = [ModelServices.connected(self._redis, one) for one in settings.all_keys]
        self.queue = self.models[0].queue  # finds jobs of every model by their ids
        self.token_log = TokenLog(self._redis, keys)
        self.files = FileStore(self._redis, keys, file_data(settings))
        self.batches = BatchStore(self._redis, keys)
        self.replies = ReplyStream(self._blocking_redis, keys, self.replica_id)

    def seen_by(self, caller: Caller) -> "RedisServices":
        """Return a view that finds the jobs, files and batches of the caller."""
        view = copy.copy(self)
        view.queue = self.queue.seen_by(caller.sees)
        view.files = self.files.seen_by(caller)
        view.batches = self.batches.seen_by(caller.sees)
        return view

    async def ping(self) -> None:
        await self._redis.ping()

    async def close(self) -> None:
        """Close the clients; Redis may be unreachable."""
        for client in (self._redis, self._blocking_redis):
            with suppress(*UNREACHABLE):
                await client.aclose()


def file_data(settings: ApiSettings) -> FileData | None:
    """Return where the contents of files are; None in Redis."""
    if settings.files_bucket is not None:
        from shared.batches.bucket_data import BucketFileData  # needs an optional extra

        return BucketFileData(settings.files_bucket, settings.files_endpoint)
    return None if settings.files_dir is None else FolderFileData(settings.files_dir)


@asynccontextmanager
async def redis_timeout(timeout_s: float | None = REDIS_TIMEOUT_S) -> AsyncIterator[None]:
    """Raise ServiceUnavailable if a call to Redis inside fails, or all take longer than this.

    Without a timeout, that of each command of the client holds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except ResponseError as error:  # out of memory, a missing permission, or a defect
        log.error("redis refused a command", error=str(error))
        raise ServiceUnavailable(
            f"Redis refused a command: {refusal(error)}", retry_after_s=RETRY_AFTER_S
        ) from error
    except UNREACHABLE as error:
        raise ServiceUnavailable(REDIS_UNREACHABLE, retry_after_s=RETRY_AFTER_S) from error


def refusal(error: ResponseError) -> str:
    """Return the message of Redis without the parts about the script."""
    return str(error).rpartition(": -")[2].partition(" script: ")[0][:MAX_REFUSAL]
