"""The adapters that clients loaded at run time: one set for all workers of a queue.

Each change of the set raises its generation. A worker reports the generation that it serves, so an
adapter counts as loaded once every live worker serves it.
"""

from collections.abc import Iterable

import msgspec
from redis.asyncio import Redis

from shared.protocol import WorkerInfo, encode
from shared.queue.keys import Keys
from shared.queue.scripts import Script, Scripts


class RuntimeAdapter(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    path: str  # as the client named it: below the folder that each worker allows
    since: int  # generation that added or replaced it

    @property
    def version(self) -> str:
        """Return its name in an engine: blocks of another version must not be reused."""
        return f"{self.name}@{self.since}"


class AdapterSet(msgspec.Struct, frozen=True, kw_only=True):
    """The adapters that workers must serve."""

    generation: int = 0
    adapters: tuple[RuntimeAdapter, ...] = ()

    def find(self, name: str) -> RuntimeAdapter | None:
        return next((adapter for adapter in self.adapters if adapter.name == name), None)

    def with_path(self, name: str, path: str) -> "AdapterSet":
        """Return the next generation, in which `name` is loaded from `path`."""
        added = RuntimeAdapter(name=name, path=path, since=self.generation + 1)
        return self._next(*self._others(name), added)

    def without(self, name: str) -> "AdapterSet":
        """Return the next generation, without `name`."""
        return self._next(*self._others(name))

    def with_earlier(self, adapter: RuntimeAdapter) -> "AdapterSet":
        """Return the next generation, with an adapter as an earlier generation had it."""
        return self._next(*self._others(adapter.name), adapter)

    def _others(self, name: str) -> Iterable[RuntimeAdapter]:
        return (adapter for adapter in self.adapters if adapter.name != name)

    def _next(self, *adapters: RuntimeAdapter) -> "AdapterSet":
        return AdapterSet(generation=self.generation + 1, adapters=adapters)

    def served_by(self, workers: Iterable[WorkerInfo]) -> tuple[str, ...]:
        """Return the names that all of these workers serve; without workers, all names."""
        live = list(workers)
        return tuple(
            adapter.name
            for adapter in self.adapters
            if all(is_served(adapter, worker) for worker in live)
        )


def is_served(adapter: RuntimeAdapter, worker: WorkerInfo) -> bool:
    is_known = worker.adapter_generation >= adapter.since
    return is_known and adapter.name not in worker.adapter_errors


class AdapterRegistry:
    """The set of one queue in Redis."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def read(self) -> AdapterSet:
        packed: bytes | None = await self._redis.get(self._keys.adapters)
        return AdapterSet() if packed is None else msgspec.msgpack.decode(packed, type=AdapterSet)

    async def change(self, earlier: AdapterSet, later: AdapterSet) -> bool:
        """Replace a set by its next generation; return False if it has changed meanwhile."""
        expected = encode(earlier) if earlier.generation else ""
        return bool(await self._scripts.run(Script.CHANGE_ADAPTERS, expected, encode(later)))
