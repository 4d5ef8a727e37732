"""Workers follow the queue by the shipped ScaledObject, and no job is lost."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from shared.redis.client import connect
from tests.redis_server import running_redis
from tools.scaling_sim.autoscaler import MANIFEST, Autoscaler, Rules
from tools.scaling_sim.simulation import Scenario, simulate

RULES = Rules.from_manifest(MANIFEST)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with running_redis(tmp_path) as server:
        yield server.url


def follow(scaler: Autoscaler, num_jobs: int, start_s: int, until_s: int) -> list[int]:
    return [scaler.observe(now, num_jobs) for now in range(start_s, until_s, RULES.polling_s)]


def test_an_empty_queue_has_no_workers() -> None:
    assert follow(Autoscaler(RULES), 0, 0, 600)[-1] == 0


def test_one_job_starts_one_worker() -> None:
    assert set(follow(Autoscaler(RULES), 1, 0, 600)) == {1}


def test_workers_are_jobs_over_list_length_up_to_the_maximum() -> None:
    assert follow(Autoscaler(RULES), 3 * RULES.list_length + 30, 0, 600)[-1] == 4
    assert follow(Autoscaler(RULES), 10**6, 0, 600)[-1] == RULES.max_replicas


def test_workers_are_added_at_the_rate_of_the_policy() -> None:
    counts = follow(Autoscaler(RULES), 10**6, 0, RULES.up.period_s)
    assert max(counts) <= 1 + RULES.up.pods


def test_workers_are_removed_one_by_one_after_the_window() -> None:
    scaler = Autoscaler(RULES)
    peak = follow(scaler, 10**6, 0, 600)[-1]
    window_ends = 600 + RULES.down_window_s
    assert set(follow(scaler, 1, 600, window_ends - 60)) == {peak}
    later = follow(scaler, 1, window_ends - 60, window_ends + 2 * RULES.down_window_s)
    assert later[-1] == 1
    assert all(before - after <= 1 for before, after in pairwise(later))


def test_the_last_worker_is_removed_after_the_cooldown() -> None:
    scaler = Autoscaler(RULES)
    follow(scaler, 1, 0, 100)
    assert follow(scaler, 0, 100, 90 + RULES.cooldown_s)[-1] == 1
    assert follow(scaler, 0, 90 + RULES.cooldown_s, 200 + RULES.cooldown_s)[-1] == 0


async def test_no_job_of_a_burst_is_lost_while_models_load(redis_url: str) -> None:
    redis = connect(redis_url, name="scaling")
    scenario = Scenario(
        rate=lambda now: 2.0 if now < 1500 else 0.0,
        until_s=6000,
        slots=RULES.list_length,
        service_s=60,
        load_s=960,
    )
    try:
        result = await simulate(redis, RULES, scenario)
    finally:
        await redis.aclose()
    assert sorted(result.finished) == sorted(result.accepted)
    assert max(moment.replicas for moment in result.moments) > 1
    assert result.moments[-1].replicas == 0
    assert result.refused == 0
