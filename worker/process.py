"""The worker process: what it is made of, how it starts, and every way it stops.

Each part is one task on one event loop; the first that fails ends the process.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from functools import partial
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
from shared.queue.worker_registry import Registry, hash_card
from shared.redis.client import UNREACHABLE, connect, is_refusal
from shared.redis.retry import Backoff
from shared.redis.server_check import check_server
from shared.request.prompt import PromptEncoder
from shared.version import falconer_version
from worker.engine_thread import EngineThread
from worker.health.heartbeat import Heartbeat
from worker.health.metrics import WorkerMetrics
from worker.health.probes import Probes
from worker.jobs.capacity import Capacity
from worker.jobs.lease_renewal import EngineStuck, LeaseRenewer
from worker.jobs.leased_worker import LeasedWorker
from worker.jobs.list_consumer import BLOCK_S, ListConsumer
from worker.jobs.task import ChatTask
from worker.jobs.token_log_writer import Outbox
from worker.model_loading import LoadedModel
from worker.settings import WorkerSettings

DEREGISTER_S = 1.0

log = structlog.get_logger(__name__)


class EngineDied(Exception):
    """The engine's thread ended by an error of its own."""


class WorkerProcess:
    """One worker around a loaded model; made and run on the same event loop."""

    def __init__(
        self, settings: WorkerSettings, model: LoadedModel, listener: socket.socket | None = None
    ) -> None:
        """`listener`: where to serve probes and metrics, if anywhere."""
        self.worker_id = settings.worker_id or new_worker_id()
        self._listener = listener
        self._settings = settings
        self._model = model
        self._stopping = asyncio.Event()
        self._clients: list[ArqRedis] = []
        self._assemble(Keys(settings.queue), hash_card(model.card, model.tokenizer_json))

    def _assemble(self, keys: Keys, card_hash: str) -> None:
        settings, model = self._settings, self._model
        lease_ms = round(settings.lease_s * 1000)
        self._redis = self._connect("jobs")
        self._registry = Registry(self._redis, keys)
        self._metrics = WorkerMetrics()
        self._runtime = self._make_runtime()
        self._outbox = Outbox(TokenLog(self._connect("tokens"), keys), self.worker_id)
        self._wake = ListConsumer(
            self._connect("wake", BLOCK_S), keys.wake, lambda _: self._worker.nudge()
        )
        self._worker = self._make_worker(keys, card_hash, lease_ms)
        self._control = ListConsumer(
            self._connect("control", BLOCK_S), keys.control(self.worker_id), self._worker.cancel
        )
        self._keeper = LeaseRenewer(
            self._worker,
            JobQueue(self._redis, keys),
            self._runtime,
            lease_ms=lease_ms,
            step_timeout_s=settings.step_timeout_s,
        )
        self._heartbeat = Heartbeat(
            self._registry,
            self._info(card_hash),
            model.card,
            model.tokenizer_json,
            self._worker,
            self._runtime,
        )
        self._probes = Probes(
            self._metrics,
            is_alive=lambda: self._runtime.step_age_s <= settings.step_timeout_s,
            is_ready=partial(self._registry.is_live, self.worker_id),
        )

    def _make_runtime(self) -> EngineThread:
        """Its steps are counted in the metrics."""
        engine = self._model.engine
        prepare_thread = partial(torch.set_num_threads, engine.num_torch_threads)
        runtime = EngineThread(engine, prepare_thread, self._metrics.note_step)
        engine.lost.add_done_callback(lambda lost: runtime.fail(lost.result()))
        self._metrics.watch_engine(
            lambda: runtime.stats,
            total_kv_tokens=engine.total_kv_tokens,
            block_size=self._settings.block_size,
        )
        return runtime

    def _make_worker(self, keys: Keys, card_hash: str, lease_ms: int) -> LeasedWorker:
        settings, model = self._settings, self._model
        encoder = PromptEncoder(model.card, model.tokenizer_json)
        return LeasedWorker(
            pool=self._redis,
            keys=keys,
            worker_id=self.worker_id,
            task=ChatTask(self._runtime, encoder, card_hash, self._outbox),
            capacity=Capacity(
                rows=settings.max_rows,
                tokens=model.engine.total_kv_tokens,
                max_attempts=settings.max_attempts,
            ),
            lease_ms=lease_ms,
            on_room=self._wake.listen,
            on_attempt=self._metrics.note_attempt,
            # A job claimed during a step that may never end waits for as long as that is unknown.
            may_claim=lambda: self._runtime.step_age_s <= settings.lease_s,
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
        """Ask for an orderly end; `run` returns when it is reached. Asked twice: without grace."""
        if self._stopping.is_set():
            self._worker.hurry()
        self._stopping.set()

    async def run(self) -> None:
        """Serve jobs until told to stop. Raises what made a part fail."""
        try:
            if await self._register_unless_stopped():
                await self._serve()
        finally:
            self._runtime.stop()
            await asyncio.gather(*map(_leave, self._clients))

    async def _register_unless_stopped(self) -> bool:
        """A call to a Redis that says nothing may take long: a stop does not wait for it."""
        tasks = _start(self._register(), self._stopping.wait())
        try:
            await _until_first(tasks)
            return not self._stopping.is_set()
        finally:
            await cancel_all(tasks)

    async def _register(self) -> None:
        """Publish the model. Redis may start later than its workers."""
        backoff = Backoff()
        while True:
            try:
                await self._log_in()
                await self._registry.publish_card(self._model.card, self._model.tokenizer_json)
                return
            except UNREACHABLE as error:
                log.warning("waiting for Redis", error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def _log_in(self) -> None:
        """Raise SettingsError where waiting does not help, as for a wrong password."""
        try:
            await check_server(self._redis)
        except RedisError as error:
            if is_refusal(error):
                raise SettingsError(f"this worker cannot use its Redis: {error}") from error
            raise

    async def _serve(self) -> None:
        self._runtime.start()
        # What makes others count on this worker, or takes what another could have: ends first.
        greeters = _start(self._heartbeat.run(), self._wake.run())
        parts = _start(
            self._work(),
            self._control.run(),
            self._keeper.run(),
            self._outbox.run(),
            self._watch_engine(),
            *self._probing(),
        )
        stop = _start(self._stopping.wait())
        log.info("worker ready", worker=self.worker_id, model=self._model.card.name)
        try:
            await _until_first([*stop, *greeters, *parts])
            await cancel_all(greeters)
            await self._deregister()
            await self._worker.drain(self._settings.grace_s)
        except (EngineDied, EngineStuck):
            self._worker.abandon()
            raise
        finally:
            await cancel_all([*stop, *greeters, *parts])
        log.info("worker stopped", worker=self.worker_id)

    def _probing(self) -> list[Coroutine[Any, Any, None]]:
        return [] if self._listener is None else [self._probes.run(self._listener)]

    async def _work(self) -> None:
        """Claim and run jobs. Before it does, arq asks Redis for its version, once."""
        backoff = Backoff()
        while True:
            try:
                return await self._worker.async_run()
            except UNREACHABLE as error:
                log.warning("waiting for Redis", error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def _watch_engine(self) -> None:
        await self._runtime.failed.wait()
        raise EngineDied("the engine ended by an error")

    async def _deregister(self) -> None:
        """Live workers share what is ready: one that stops must not be counted."""
        with suppress(TimeoutError, *UNREACHABLE):
            async with asyncio.timeout(DEREGISTER_S):
                await self._registry.remove(self.worker_id)


def _start(*parts: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(part) for part in parts]


async def _until_first(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until one task ends; raises its error if it has one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _leave(client: ArqRedis) -> None:
    """Redis may be out of reach."""
    with suppress(*UNREACHABLE):
        await client.aclose()


def new_worker_id() -> str:
    """Unique, and telling where it runs; fit for a Redis key."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())[:40]
    return f"{host}-{secrets.token_hex(4)}"
