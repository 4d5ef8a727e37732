"""The endurance run reports growth, but not a change of pace."""

from shared.queue.keys import MIN_RECORD_TTL_S
from tests.chaos.checks.resource_samples import ResourceSample
from tests.chaos.endurance import trends

EVERY_S = 60


def samples(*, jobs_per_s: list[float], leaks: float = 0) -> list[ResourceSample]:
    """Return a sample per minute: two keys and a kilobyte for each job of the last 15 minutes.

    `leaks` adds that many keys and kilobytes per job and megabytes per minute.
    """
    accepted = [0.0]
    for pace in jobs_per_s:
        accepted.append(accepted[-1] + pace * EVERY_S)
    kept = MIN_RECORD_TTL_S // EVERY_S
    return [
        ResourceSample(
            at=minute * EVERY_S,
            memory_mb={"api-1": 100 + minute * leaks},
            num_fds={"api-1": 20},
            num_connections=10,
            num_keys=round(2 * (count - accepted[max(0, minute - kept)]) + leaks * count),
            data_mb=2 + (count - accepted[max(0, minute - kept)] + leaks * count) / 1000,
            num_accepted=round(count),
        )
        for minute, count in enumerate(accepted)
    ]


def grown(found: list[ResourceSample]) -> list[str]:
    return [trend.name for trend in trends(found) if trend.grew]


def test_a_change_of_pace_is_no_growth() -> None:
    assert grown(samples(jobs_per_s=[3.0] * 20 + [9.0] * 10)) == []


def test_leaked_keys_and_memory_are_growth() -> None:
    found = grown(samples(jobs_per_s=[5.0] * 40, leaks=3))
    assert "keys in Redis by jobs kept" in found
    assert "memory in Redis by jobs kept, kB" in found
    assert "memory of api-1, MB" in found
