"""The Prometheus metrics of a worker."""

from prometheus_client.parser import text_string_to_metric_families

from worker.engine import Phase, StepReport
from worker.engine_thread import EngineStats
from worker.health.metrics import WorkerMetrics


def samples(metrics: WorkerMetrics) -> dict[tuple[str, str], float]:
    """Return samples by name and label value."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_each_step_is_observed_once_in_rows_and_in_every_phase() -> None:
    metrics = WorkerMetrics()
    for _ in range(2):
        metrics.record_step(StepReport(3, 40, dict.fromkeys(Phase, 0.02)))
    exported = samples(metrics)
    assert exported["falconer_batch_rows_count", ""] == 2
    assert exported["falconer_batch_rows_sum", ""] == 6
    assert exported["falconer_computed_tokens_total", ""] == 80
    for phase in Phase:
        assert exported["falconer_step_seconds_count", phase] == 2


def test_drafts_are_counted_by_verification_outcome() -> None:
    metrics = WorkerMetrics()
    metrics.record_step(StepReport(1, 8, num_drafts=7, num_accepted_drafts=5))
    exported = samples(metrics)
    assert exported["falconer_draft_tokens_total", "accepted"] == 5
    assert exported["falconer_draft_tokens_total", "rejected"] == 2


def test_a_step_without_rows_is_not_observed() -> None:
    metrics = WorkerMetrics()
    metrics.record_step(StepReport())
    assert samples(metrics)["falconer_batch_rows_count", ""] == 0


def test_blocks_hits_and_preemptions_are_read_at_each_scrape() -> None:
    metrics = WorkerMetrics()
    stats = EngineStats()
    metrics.watch_engine(lambda: stats, total_kv_tokens=100, block_size=10)
    assert samples(metrics)["falconer_kv_blocks", "free"] == 10
    stats = EngineStats(used_kv_tokens=30, num_preemptions=2, num_prefix_hit_tokens=64)
    exported = samples(metrics)
    assert exported["falconer_kv_blocks", "used"] == 3
    assert exported["falconer_kv_blocks", "free"] == 7
    assert exported["falconer_prefix_cache_hits_total", ""] == 64
    assert exported["falconer_preemptions_total", ""] == 2


def test_the_wait_of_a_job_is_observed_once() -> None:
    metrics = WorkerMetrics()
    metrics.record_wait(7.5)
    exported = samples(metrics)
    assert exported["falconer_queue_wait_seconds_count", ""] == 1
    assert exported["falconer_queue_wait_seconds_sum", ""] == 7.5


def test_attempts_are_counted_by_outcome() -> None:
    metrics = WorkerMetrics()
    for outcome in ("succeeded", "succeeded", "failed"):
        metrics.record_attempt(outcome)
    exported = samples(metrics)
    assert exported["falconer_attempts_total", "succeeded"] == 2
    assert exported["falconer_attempts_total", "failed"] == 1
