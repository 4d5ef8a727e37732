"""Registry of live workers, and of the model card that requests are checked against.

A worker sends a heartbeat every few seconds; without it, the worker leaves the registry.
"""

from dataclasses import dataclass
from hashlib import sha256

import msgspec
from redis.asyncio import Redis

from shared.protocol import ModelCard, WorkerInfo, encode
from shared.queue.keys import LOADING_TTL_S, WORKER_TTL_S, Keys
from shared.queue.scripts import Script, Scripts


@dataclass(frozen=True, slots=True)
class RegisteredCard:
    """A model card with its tokenizer.json; `hash` covers both."""

    hash: str
    card: ModelCard
    tokenizer_json: bytes
    created_ms: int  # when a worker first registered it; 0 from workers of an earlier version


class LoadingWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that loads its model, as `GET /workers` lists it."""

    id: str
    model: str
    started_ms: int
    read_bytes: int = 0  # of the weights
    total_bytes: int = 0  # 0 until the headers of the weights are read
    eta_s: float | None = None  # until they are read, at the present rate


def hash_card(card: ModelCard, tokenizer_json: bytes) -> str:
    """Return the hex SHA-256 under which a card is registered."""
    return sha256(_pack(card, tokenizer_json)).hexdigest()


def _pack(card: ModelCard, tokenizer_json: bytes) -> bytes:
    return encode((card, tokenizer_json))


class Registry:
    """Live workers and the current model card of one queue."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)
        self._latest: RegisteredCard | None = None

    async def publish_card(self, card: ModelCard, tokenizer_json: bytes) -> str:
        """Make this the current model card; return its hash."""
        card_hash = hash_card(card, tokenizer_json)
        await self._scripts.run(Script.PUBLISH_MODEL_CARD, card_hash, _pack(card, tokenizer_json))
        return card_hash

    async def announce(self, source: str) -> None:
        """Record that a worker loads a checkpoint, until `publish_card` is called."""
        await self._redis.set(self._keys.loading, source, ex=LOADING_TTL_S)

    async def current_card(self) -> RegisteredCard | None:
        """Return the current card, the same object until another one is published; cheap to poll.

        Returns None while another model loads and no live worker serves the current one.
        """
        keys = [self._keys.current_model, self._keys.loading]
        current, loading = await self._redis.mget(keys)
        if current is None:
            return None
        latest = await self._card(current.decode())
        if latest is None or loading is None or loading.decode() == latest.card.source:
            return latest
        return latest if await self._is_served(latest.hash) else None

    async def _card(self, card_hash: str) -> RegisteredCard | None:
        if self._latest is None or self._latest.hash != card_hash:
            data, created_ms = await self._redis.mget(
                [self._keys.model_card(card_hash), self._keys.model_created(card_hash)]
            )
            if data is None:
                return None
            card, tokenizer_json = msgspec.msgpack.decode(data, type=tuple[ModelCard, bytes])
            self._latest = RegisteredCard(card_hash, card, tokenizer_json, int(created_ms or 0))
        return self._latest

    async def _is_served(self, card_hash: str) -> bool:
        return any(worker.card_hash == card_hash for worker in await self.workers())

    async def report(self, info: WorkerInfo) -> bool:
        """Send a heartbeat; return False if the worker must publish its card again.

        Redis lost the card, or no live worker serves the current one.
        """
        current = await self._scripts.run(Script.HEARTBEAT, info.id, encode(info), info.card_hash)
        if current is None:
            return False
        return current.decode() == info.card_hash or await self._is_served(current.decode())

    async def remove(self, worker_id: str) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:  # MULTI needs free memory
            pipe.zrem(self._keys.workers, worker_id)
            pipe.delete(self._keys.worker(worker_id), self._keys.control(worker_id))
            await pipe.execute()

    async def is_live(self, worker_id: str) -> bool:
        return bool(await self._redis.exists(self._keys.worker(worker_id)))

    async def card_hash_of(self, worker_id: str) -> str | None:
        """Return the hash of a worker's model card; None unless the worker is live."""
        data: bytes | None = await self._redis.get(self._keys.worker(worker_id))
        info = _decode_report(data) if data else None
        return None if info is None else info.card_hash

    async def report_loading(self, worker: LoadingWorker) -> None:
        """Show for a few seconds how far a worker has loaded its model."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(self._keys.loading_worker(worker.id), encode(worker), ex=WORKER_TTL_S)
            pipe.zadd(self._keys.loading_workers, {worker.id: 0})
            pipe.expire(self._keys.loading_workers, LOADING_TTL_S)
            await pipe.execute()

    async def remove_loading(self, worker_id: str) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(self._keys.loading_workers, worker_id)
            pipe.delete(self._keys.loading_worker(worker_id))
            await pipe.execute()

    async def loading(self) -> list[LoadingWorker]:
        """Return the loading workers; the first has read the largest part of its weights."""
        ids = [id_.decode() for id_ in await self._redis.zrange(self._keys.loading_workers, 0, -1)]
        if not ids:
            return []
        reports = await self._redis.mget([self._keys.loading_worker(id_) for id_ in ids])
        found = [msgspec.msgpack.decode(data, type=LoadingWorker) for data in reports if data]
        return sorted(found, key=lambda one: one.read_bytes / max(one.total_bytes, 1), reverse=True)

    async def workers(self) -> list[WorkerInfo]:
        """Return the live workers, ordered by id."""
        ids = [id_.decode() for id_ in await self._redis.zrange(self._keys.workers, 0, -1)]
        if not ids:
            return []
        reports = await self._redis.mget([self._keys.worker(id_) for id_ in ids])
        live = [info for data in reports if data and (info := _decode_report(data))]
        return sorted(live, key=lambda worker: worker.id)


def _decode_report(data: bytes) -> WorkerInfo | None:
    """Decode a heartbeat; None if its fields are of another version."""
    try:
        return msgspec.msgpack.decode(data, type=WorkerInfo)
    except msgspec.DecodeError:
        return None
