"""Prometheus metrics of one worker: engine steps, waits and attempts of jobs.

The api exports what clients see, such as latencies.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.engine import StepReport
from worker.engine_thread import EngineStats

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
WAIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 300)
# A phase takes between microseconds (scheduling) and seconds (a long prompt on a CPU).
STEP_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0),
)


class WorkerMetrics:
    """Metrics in a registry of their own. The engine's thread calls `record_step`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rows = Histogram(
            "falconer_batch_rows", "Rows of a step.", buckets=ROWS, registry=self.registry
        )
        self._step_seconds = Histogram(
            "falconer_step_seconds",
            "Time of a step's phases.",
            ["phase"],
            buckets=STEP_SECONDS,
            registry=self.registry,
        )
        self._computed_tokens = Counter(
            "falconer_computed_tokens",
            "Tokens computed by the model, of prompts and of completions.",
            registry=self.registry,
        )
        self._draft_tokens = Counter(
            "falconer_draft_tokens",
            "Draft tokens of prompt lookup, by verification outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._queue_wait = Histogram(
            "falconer_queue_wait_seconds",
            "From the acceptance of a job to the start of its first attempt.",
            buckets=WAIT_SECONDS,
            registry=self.registry,
        )
        self._attempts = Counter(
            "falconer_attempts",
            "Attempts of jobs on this worker, by outcome.",
            ["outcome"],
            registry=self.registry,
        )

    def watch_engine(
        self, read_stats: Callable[[], EngineStats], *, total_kv_tokens: int, block_size: int
    ) -> None:
        """Export the figures of `read_stats` at each scrape."""
        self.registry.register(
            _EngineCollector(read_stats, total_kv_tokens // block_size, block_size)
        )

    def record_step(self, report: StepReport) -> None:
        if report.num_rows == 0:
            return
        self._rows.observe(report.num_rows)
        self._computed_tokens.inc(report.num_tokens)
        self._draft_tokens.labels("accepted").inc(report.num_accepted_drafts)
        self._draft_tokens.labels("rejected").inc(report.num_drafts - report.num_accepted_drafts)
        for phase, seconds in report.seconds.items():
            self._step_seconds.labels(phase).observe(seconds)

    def record_wait(self, seconds: float) -> None:
        self._queue_wait.observe(seconds)

    def record_attempt(self, outcome: str) -> None:
        self._attempts.labels(outcome).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    def __init__(
        self, read_stats: Callable[[], EngineStats], num_blocks: int, block_size: int
    ) -> None:
        self._read_stats = read_stats
        self._num_blocks = num_blocks
        self._block_size = block_size

    def collect(self) -> Iterator[Metric]:
        stats = self._read_stats()
        num_used = stats.used_kv_tokens // self._block_size
        blocks = GaugeMetricFamily(
            "falconer_kv_blocks", "Blocks of the KV cache.", labels=["state"]
        )
        blocks.add_metric(["used"], num_used)
        blocks.add_metric(["free"], self._num_blocks - num_used)
        yield blocks
        yield CounterMetricFamily(
            "falconer_prefix_cache_hits",
            "Tokens found in the KV cache instead of computed.",
            value=stats.num_prefix_hit_tokens,
        )
        yield CounterMetricFamily(
            "falconer_preemptions",
            "Running requests that lost their KV blocks and were recomputed.",
            value=stats.num_preemptions,
        )
