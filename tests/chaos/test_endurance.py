"""The endurance run sees growth where there is some, and none where only the pace changes."""

from shared.queue.keys import TOMBSTONE_S
from tests.chaos.endurance import trends
from tests.chaos.holdings import Holdings

EVERY_S = 60


def seen(*, jobs_per_s: list[float], leaks: float = 0) -> list[Holdings]:
    """Two keys and a kilobyte for each job of the last 15 minutes.

    `leaks` keys and kilobytes stay of each job, and megabytes of each minute.
    """
    accepted = [0.0]
    for pace in jobs_per_s:
        accepted.append(accepted[-1] + pace * EVERY_S)
    kept = TOMBSTONE_S // EVERY_S
    return [
        Holdings(
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


def grown(observations: list[Holdings]) -> list[str]:
    return [trend.name for trend in trends(observations) if trend.grew]


def test_a_change_of_pace_is_no_growth() -> None:
    assert grown(seen(jobs_per_s=[3.0] * 20 + [9.0] * 10)) == []


def test_keys_and_memory_that_stay_are_growth() -> None:
    found = grown(seen(jobs_per_s=[5.0] * 40, leaks=3))
    assert "keys in Redis by jobs kept" in found
    assert "memory in Redis by jobs kept, kB" in found
    assert "memory of api-1, MB" in found
