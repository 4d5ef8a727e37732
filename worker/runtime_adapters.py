"""Load and unload adapters while the worker serves, as the set in Redis says.

A job keeps the adapter that it started with. An adapter that is unloaded or replaced leaves the
engine once its last job has ended.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from shared.errors import ModelNotFound
from shared.redis.client import UNREACHABLE
from shared.registry.adapter_registry import AdapterRegistry, RuntimeAdapter
from worker.engine.execution.torch_runner import ModelRunner, Runner
from worker.engine.loading.adapters import read_served_adapter
from worker.engine_thread import EngineThread
from worker.model.checkpoint.adapter_folders import CONFIG_FILE, AdapterFolder
from worker.model.checkpoint.adapter_weights import find_weights
from worker.model.errors import CheckpointError
from worker.model.lora import ServedAdapter

POLL_S = 0.5

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Loaded:
    """One version of an adapter in the engine."""

    since: int
    key: str  # its name in the engine
    num_jobs: int = 0


class RuntimeAdapters:
    """The adapters of one worker, by the names that jobs give."""

    def __init__(
        self,
        registry: AdapterRegistry,
        runner: Runner,
        engine_thread: EngineThread,
        allowed: Path | None,
    ) -> None:
        """Load adapters from folders below `allowed`; without it or torch, load none."""
        self.generation = 0  # of the set that is served
        self.errors: dict[str, str] = {}  # by name: why an adapter of the set is not served
        self._registry = registry
        self._runner = runner if isinstance(runner, ModelRunner) else None
        self._engine_thread = engine_thread
        self._allowed = allowed
        self._loaded: dict[str, _Loaded] = {}
        self._retired: list[_Loaded] = []
        self._serving = {} if self._runner is None else self._runner.adapters
        self._fixed = tuple(self._serving)

    @property
    def is_enabled(self) -> bool:
        return self._allowed is not None and self._runner is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that jobs may give, without the adapters of `--adapters-dir`."""
        return tuple(self._loaded)

    async def run(self, report: Callable[[], Awaitable[None]]) -> None:
        """Follow the set until cancelled, and report each change."""
        while True:
            try:
                if await self.synchronize():
                    await report()
            except UNREACHABLE as error:
                log.debug("reading the adapters failed, will retry", error=str(error))
            await asyncio.sleep(POLL_S)

    async def synchronize(self) -> bool:
        """Serve the present set; return whether it has changed."""
        if not self.is_enabled:
            return False
        wanted = await self._registry.read()
        if wanted.generation == self.generation:
            return False
        self.errors = {}
        for name in self._loaded.keys() - {adapter.name for adapter in wanted.adapters}:
            await self._retire(self._loaded.pop(name))
            log.info("adapter unloaded", adapter=name)
        for adapter in wanted.adapters:
            loaded = self._loaded.get(adapter.name)
            if loaded is None or loaded.since != adapter.since:
                await self._load(adapter)
        self.generation = wanted.generation
        return True

    async def _load(self, adapter: RuntimeAdapter) -> None:
        """Load one adapter; record the reason if it cannot be served."""
        try:
            served = await asyncio.to_thread(self._read, adapter.path)
        except (CheckpointError, OSError, ValueError) as error:
            self.errors[adapter.name] = " ".join(str(error).split())
            log.error("adapter not loaded", adapter=adapter.name, error=self.errors[adapter.name])
            return
        new = _Loaded(adapter.since, adapter.version)
        await self._engine_thread.call(partial(self._serving.__setitem__, new.key, served))
        earlier = self._loaded.get(adapter.name)
        self._loaded[adapter.name] = new
        if earlier is not None:
            await self._retire(earlier)
        log.info("adapter loaded", adapter=adapter.name, path=adapter.path)

    def _read(self, path: str) -> ServedAdapter:
        assert self._allowed is not None and self._runner is not None
        return read_served_adapter(self._runner.model, allowed_folder(self._allowed, path))

    @contextmanager
    def use(self, name: str | None) -> Iterator[str | None]:
        """Yield the engine's name of an adapter, which stays in the engine meanwhile.

        Raises ModelNotFound for an adapter that was unloaded.
        """
        if name is None or name in self._fixed:
            yield name
            return
        loaded = self._loaded.get(name)
        if loaded is None:
            raise ModelNotFound(f"the adapter {name[:40]!r} is not loaded", field="adapter")
        loaded.num_jobs += 1
        try:
            yield loaded.key
        finally:
            loaded.num_jobs -= 1
            if not loaded.num_jobs and loaded in self._retired:
                self._retired.remove(loaded)
                self._engine_thread.call(partial(self._serving.pop, loaded.key))

    async def _retire(self, loaded: _Loaded) -> None:
        """Remove a version from the engine, now or after its last job."""
        if loaded.num_jobs:
            self._retired.append(loaded)
        else:
            await self._engine_thread.call(partial(self._serving.pop, loaded.key))


def allowed_folder(allowed: Path, path: str) -> AdapterFolder:
    """Return the folder of an adapter below `allowed`, symbolic links resolved.

    Raises CheckpointError, with the same message whatever lies outside.
    """
    root = allowed.resolve()
    folder = AdapterFolder((root / path).resolve())
    reason = f"lora_path {path!r} must be a folder with an {CONFIG_FILE} below {allowed}"
    if not folder.path.is_relative_to(root) or not (folder.path / CONFIG_FILE).is_file():
        raise CheckpointError(reason)
    for file in (folder.path / CONFIG_FILE, find_weights(folder)):
        if not file.resolve().is_relative_to(root):
            raise CheckpointError(reason)
    return folder
