"""Report to the registry every few seconds that this worker is alive, and its load."""

import asyncio
import time
from dataclasses import dataclass

import msgspec
import structlog

from shared.protocol import ModelCard, WorkerInfo
from shared.queue.keys import WORKER_TTL_S
from shared.redis.retry import retry_until_reachable
from shared.registry.worker_registry import Registry
from worker.engine_thread import EngineThread
from worker.jobs.leased_worker import LeasedWorker
from worker.runtime_adapters import RuntimeAdapters

INTERVAL_S = WORKER_TTL_S / 4
MAX_DELAY_S = 0.5  # between retries of a report
SMOOTHING = 0.3  # weight of the latest interval in a rate

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Rate:
    """Events per second, smoothed exponentially, from a counter that only grows."""

    count: int = 0
    measured: float = 0.0  # monotonic seconds
    per_s: float = 0.0

    def update(self, count: int, now: float) -> float:
        current = (count - self.count) / (now - self.measured) if now > self.measured else 0.0
        self.per_s += SMOOTHING * (current - self.per_s)
        self.count, self.measured = count, now
        return self.per_s


class Heartbeat:
    """Send the heartbeats of one worker."""

    def __init__(
        self,
        registry: Registry,
        info: WorkerInfo,
        card: ModelCard,
        tokenizer_json: bytes,
        worker: LeasedWorker,
        engine_thread: EngineThread,
        adapters: RuntimeAdapters,
    ) -> None:
        """Send `info`, with the changing fields that worker and engine supply at each beat."""
        self._registry = registry
        self._info = info
        self._card = card
        self._tokenizer_json = tokenizer_json
        self._worker = worker
        self._engine_thread = engine_thread
        self._adapters = adapters
        self._jobs = Rate(measured=time.monotonic())
        self._tokens = Rate(measured=time.monotonic())

    async def run(self) -> None:
        """Send heartbeats until cancelled; retry soon, because a restarted Redis lost the id."""
        while True:
            await retry_until_reachable(
                self.beat, log, "heartbeat failed, will retry", max_delay_s=MAX_DELAY_S
            )
            await asyncio.sleep(INTERVAL_S)

    async def beat(self) -> None:
        """Send one heartbeat; publish the model card again if `Registry.report` asks for it."""
        if not await self._registry.report(self._current()):
            await self._registry.publish_card(self._card, self._tokenizer_json)
            log.info(
                "model card published again: Redis lost it, or no live worker serves its card",
                card=self._info.card_hash[:12],
            )

    def _current(self) -> WorkerInfo:
        now = time.monotonic()
        stats = self._engine_thread.stats
        return msgspec.structs.replace(
            self._info,
            running=stats.running,
            waiting=stats.waiting,
            kv_tokens_used=stats.used_kv_tokens,
            tokens_per_s=self._tokens.update(stats.num_tokens, now),
            jobs_per_s=self._jobs.update(self._worker.jobs_complete, now),
            loads_adapters=self._adapters.is_enabled,
            adapter_generation=self._adapters.generation,
            adapter_errors=self._adapters.errors,
        )
