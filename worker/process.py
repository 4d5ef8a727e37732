"""Assemble a worker process, start its parts, and stop them in order.

Each part is a task on one event loop. The first part that fails ends the process.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from shared.errors import SettingsError
from shared.process.asyncio_tasks import cancel_all
from shared.protocol import WorkerInfo
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from shared.redis.client import UNREACHABLE, connect, is_refusal
from shared.redis.retry import retry_until_reachable
from shared.redis.server_check import check_server
from shared.registry.adapter_registry import AdapterRegistry
from shared.registry.worker_registry import Registry, hash_card
from shared.request.prompt import PromptEncoder
from shared.version import falconer_version
from worker.engine_thread import EngineThread
from worker.health.heartbeat import Heartbeat
from worker.health.metrics import WorkerMetrics
from worker.health.probes import Probes
from worker.jobs.capacity import Capacity
from worker.jobs.job_follower import JobFollower
from worker.jobs.leased_worker import LeasedWorker
from worker.jobs.redis_loops import BLOCK_S, EngineStuck, LeaseRenewer, ListConsumer
from worker.jobs.task import ChatTask
from worker.jobs.token_log_writer import TokenLogWriter
from worker.model_loading import LoadedModel
from worker.runtime_adapters import RuntimeAdapters
from worker.settings import WorkerSettings

DEREGISTER_S = 1.0

log = structlog.get_logger(__name__)


class EngineDied(Exception):
    """The engine's thread ended with an error."""


class WorkerProcess:
    """One worker around a loaded model; constructed and run on the same event loop."""

    def __init__(
        self, settings: WorkerSettings, model: LoadedModel, listener: socket.socket | None = None
    ) -> None:
        """Serve probes and metrics on `listener`; without it, serve neither."""
        self.worker_id = settings.worker_id or new_worker_id()
        self._listener = listener
        self._settings = settings
        self._model = model
        self._stopping = asyncio.Event()
        self._clients: list[ArqRedis] = []
        card_hash = hash_card(model.card, model.tokenizer_json)
        self._assemble(settings.keys_of(model.card.name), card_hash)

    def _assemble(self, keys: Keys, card_hash: str) -> None:
        settings, model = self._settings, self._model
        lease_ms = round(settings.lease_s * 1000)
        self._redis = self._connect("jobs")
        self._queue = JobQueue(self._redis, keys)
        self._registry = Registry(self._redis, keys)
        self._metrics = WorkerMetrics()
        self._engine_thread = self._make_engine_thread()
        self._adapters = self._make_adapters(AdapterRegistry(self._redis, keys))
        self._stored_tokens = TokenLog(self._connect("tokens"), keys)
        self._token_log = TokenLogWriter(self._stored_tokens, self.worker_id)
        self._wake = ListConsumer(
            self._connect("wake", BLOCK_S), keys.wake, lambda _: self._worker.wake()
        )
        self._worker = self._make_worker(card_hash, lease_ms)
        self._control = ListConsumer(
            self._connect("control", BLOCK_S), keys.control(self.worker_id), self._worker.cancel
        )
        self._renewer = LeaseRenewer(
            self._worker,
            self._queue,
            self._engine_thread,
            lease_ms=lease_ms,
            step_timeout_s=settings.step_timeout_s,
        )
        self._heartbeat = Heartbeat(
            self._registry,
            self._info(card_hash),
            model.card,
            model.tokenizer_json,
            self._worker,
            self._engine_thread,
            self._adapters,
        )
        self._probes = Probes(
            self._metrics,
            is_alive=lambda: self._engine_thread.step_age_s <= settings.step_timeout_s,
            is_ready=partial(self._registry.is_live, self.worker_id),
        )

    def _make_engine_thread(self) -> EngineThread:
        engine = self._model.engine
        prepare_thread = partial(torch.set_num_threads, engine.num_torch_threads)
        engine_thread = EngineThread(engine, prepare_thread, self._metrics.record_step)
        engine.process_failure.add_done_callback(
            lambda failure: engine_thread.fail(failure.result())
        )
        self._metrics.watch_engine(
            lambda: engine_thread.stats,
            total_kv_tokens=engine.total_kv_tokens,
            block_size=self._settings.block_size,
        )
        return engine_thread

    def _make_adapters(self, registry: AdapterRegistry) -> RuntimeAdapters:
        folder = self._settings.runtime_adapters_dir
        allowed = None if folder is None else Path(folder).expanduser()
        return RuntimeAdapters(registry, self._model.engine.runner, self._engine_thread, allowed)

    def _make_worker(self, card_hash: str, lease_ms: int) -> LeasedWorker:
        settings, model = self._settings, self._model
        encoder = PromptEncoder(model.card, model.tokenizer_json)
        return LeasedWorker(
            queue=self._queue,
            worker_id=self.worker_id,
            run_job=ChatTask(
                self._engine_thread,
                encoder,
                card_hash,
                self._token_log,
                self._adapters.use,
                lambda: self._adapters.names,
                JobFollower(self._queue, self._stored_tokens, self._registry, card_hash),
            ),
            capacity=Capacity(
                rows=model.engine.config.max_rows,
                kv_tokens=model.engine.total_kv_tokens,
                max_attempts=settings.max_attempts,
            ),
            lease_ms=lease_ms,
            enable_wake_ups=self._wake.enable,
            on_first_start=self._metrics.record_wait,
            on_attempt=self._metrics.record_attempt,
            # If a step never ends, a job claimed during it waits until the step's timeout.
            may_claim=lambda: self._engine_thread.step_age_s <= settings.lease_s,
        )

    def _connect(self, purpose: str, block_s: float = 0.0) -> ArqRedis:
        name = f"falconer-{self.worker_id}-{purpose}"
        client = connect(self._settings.redis_url, name=name, block_s=block_s)
        self._clients.append(client)
        return client

    def _info(self, card_hash: str) -> WorkerInfo:
        return WorkerInfo(
            id=self.worker_id,
            model=self._model.card.name,
            card_hash=card_hash,
            device=self._model.device,
            version=falconer_version(),
            started_ms=time.time_ns() // 1_000_000,
            kv_tokens_total=self._model.engine.total_kv_tokens,
        )

    def stop(self) -> None:
        """Begin a graceful shutdown, after which `run` returns; a second call skips the grace."""
        if self._stopping.is_set():
            self._worker.skip_grace_period()
        self._stopping.set()

    async def run(self) -> None:
        """Serve jobs until `stop` is called. Raises the error of the first part that fails."""
        try:
            if await self._register_unless_stopped():
                await self._serve()
        finally:
            self._engine_thread.stop()
            await asyncio.gather(*map(_close, self._clients))

    async def _register_unless_stopped(self) -> bool:
        """Return whether to serve. A stop does not wait for a Redis that gives no answer."""
        register = retry_until_reachable(self._register, log, "waiting for Redis")
        tasks = _start(register, self._stopping.wait())
        try:
            await _until_first(tasks)
            return not self._stopping.is_set()
        finally:
            await cancel_all(tasks)

    async def _register(self) -> None:
        """Publish the model. Raises SettingsError where a retry cannot help: a wrong password."""
        try:
            await check_server(self._redis)
        except RedisError as error:
            if is_refusal(error):
                raise SettingsError(f"this worker cannot use its Redis: {error}") from error
            raise
        await self._registry.publish_card(self._model.card, self._model.tokenizer_json)

    async def _serve(self) -> None:
        self._engine_thread.start()
        await retry_until_reachable(self._adapters.synchronize, log, "waiting for Redis")
        # These attract work that other workers could do, so they end first.
        first_to_stop = _start(self._heartbeat.run(), self._wake.run())
        parts = _start(
            self._worker.run(),
            self._control.run(),
            self._renewer.run(),
            self._token_log.run(),
            self._watch_engine(),
            *self._following_adapters(),
            *self._probing(),
        )
        stop = _start(self._stopping.wait())
        log.info("worker ready", worker=self.worker_id, model=self._model.card.name)
        try:
            await _until_first([*stop, *first_to_stop, *parts])
            await cancel_all(first_to_stop)
            await self._deregister()
            await self._worker.drain(self._settings.grace_s)
        except (EngineDied, EngineStuck):
            self._worker.abandon_leases()
            raise
        finally:
            await cancel_all([*stop, *first_to_stop, *parts])
        log.info("worker stopped", worker=self.worker_id)

    def _following_adapters(self) -> list[Coroutine[Any, Any, None]]:
        is_enabled = self._adapters.is_enabled
        return [self._adapters.run(self._heartbeat.beat)] if is_enabled else []

    def _probing(self) -> list[Coroutine[Any, Any, None]]:
        return [] if self._listener is None else [self._probes.run(self._listener)]

    async def _watch_engine(self) -> None:
        await self._engine_thread.failed.wait()
        raise EngineDied(self._engine_thread.failure)

    async def _deregister(self) -> None:
        """Leave the registry: live workers share ready jobs, and a stopping one takes none."""
        with suppress(TimeoutError, *UNREACHABLE):
            async with asyncio.timeout(DEREGISTER_S):
                await self._registry.remove(self.worker_id)


def _start(*parts: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(part) for part in parts]


async def _until_first(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until a task ends. Raises its error."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _close(client: ArqRedis) -> None:
    """Close a client, also while Redis is unreachable."""
    with suppress(*UNREACHABLE):
        await client.aclose()


def new_worker_id() -> str:
    """Return a unique id that names the host and fits into a Redis key."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())[:40]
    return f"{host}-{secrets.token_hex(4)}"
