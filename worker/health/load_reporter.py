"""Report how far a worker has loaded its model, while its main thread loads."""

import asyncio
import threading
import time
from contextlib import suppress

import msgspec

from shared.process.asyncio_tasks import wait_at_most
from shared.queue.keys import Keys
from shared.redis.client import UNREACHABLE, connect
from shared.registry.worker_registry import LoadingWorker, Registry
from worker.model.checkpoint.shards import ReadProgress

INTERVAL_S = 1.0
REPORT_S = 1.0  # for the answer of Redis; the start of the worker waits no longer


class LoadReporter:
    """Report from a thread of its own until the context ends; Redis may be unreachable."""

    def __init__(
        self, redis_url: str, keys: Keys, worker_id: str, model: str, interval_s: float = INTERVAL_S
    ) -> None:
        self._redis_url = redis_url
        self._keys = keys
        self._info = LoadingWorker(
            id=worker_id, model=model, started_ms=time.time_ns() // 1_000_000
        )
        self._interval_s = interval_s
        self._progress = ReadProgress()
        self._first: tuple[float, int] | None = None  # time and bytes when reading had begun
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="load reporter", daemon=True)

    def __enter__(self) -> ReadProgress:
        """Return the progress, which the caller counts up."""
        self._thread.start()
        return self._progress

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._report())

    async def _report(self) -> None:
        client = connect(self._redis_url, name=f"falconer-{self._info.id}-loading")
        registry = Registry(client, self._keys)
        try:
            while not self._ended.is_set():
                with suppress(*UNREACHABLE):
                    await wait_at_most(REPORT_S, registry.report_loading(self.current()))
                await wait_at_most(self._interval_s, self._ended.wait())
            with suppress(*UNREACHABLE):
                await wait_at_most(REPORT_S, registry.remove_loading(self._info.id))
        finally:
            with suppress(*UNREACHABLE):
                await client.aclose()

    def current(self) -> LoadingWorker:
        """Return the report of this moment."""
        now, total = time.monotonic(), self._progress.total
        num_bytes = min(self._progress.num_bytes, total)  # shared embeddings may be read twice
        if num_bytes and self._first is None:
            self._first = now, num_bytes
        return msgspec.structs.replace(
            self._info,
            read_bytes=num_bytes,
            total_bytes=total,
            eta_s=self._seconds_left(now, num_bytes),
        )

    def _seconds_left(self, now: float, num_bytes: int) -> float | None:
        """Return the seconds until all weights are read; None before there is a rate."""
        if self._first is None or num_bytes == self._first[1]:
            return None
        per_byte = (now - self._first[0]) / (num_bytes - self._first[1])
        return round((self._progress.total - num_bytes) * per_byte, 1)
