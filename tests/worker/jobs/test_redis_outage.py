"""How long leases are left to their workers after Redis was away."""

import pytest

from worker.jobs.redis_outage import GRACE_S, SILENT_S, OutageTracker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def absence(clock: Clock) -> OutageTracker:
    return OutageTracker(clock)


def answer_every_second(absence: OutageTracker, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        absence.answered()


def test_while_redis_answers_a_lease_is_over_when_it_ends(
    absence: OutageTracker, clock: Clock
) -> None:
    answer_every_second(absence, clock, 5)
    assert absence.overdue_s == 0


def test_leases_that_ended_in_an_absence_are_left_alone_at_first(
    absence: OutageTracker, clock: Clock
) -> None:
    for _ in range(9):
        clock.now += 0.5
        absence.failed()
    assert absence.overdue_s == 4.5  # what ended before the absence may be taken
    clock.now += 0.5
    absence.answered()
    clock.now += GRACE_S / 2
    absence.answered()
    assert absence.overdue_s == 5 + GRACE_S / 2
    clock.now += GRACE_S
    assert absence.overdue_s == 0


def test_one_failed_call_is_an_absence_however_short(absence: OutageTracker, clock: Clock) -> None:
    clock.now += 0.1
    absence.failed()
    absence.answered()
    assert absence.overdue_s == pytest.approx(0.1)


def test_a_call_that_hung_is_an_absence_too(absence: OutageTracker, clock: Clock) -> None:
    clock.now += SILENT_S + 1
    assert absence.overdue_s == SILENT_S + 1
    absence.answered()
    assert absence.overdue_s == SILENT_S + 1
    clock.now += GRACE_S + 0.1
    assert absence.overdue_s == 0


def test_another_absence_within_the_grace_of_the_first_adds_to_it(
    absence: OutageTracker, clock: Clock
) -> None:
    absence.failed()
    absence.answered()
    clock.now += 1
    absence.failed()
    absence.answered()
    clock.now += GRACE_S / 2
    assert absence.overdue_s == 1 + GRACE_S / 2


def test_time_that_went_by_at_redis_alone_counts_as_an_absence(
    absence: OutageTracker, clock: Clock
) -> None:
    absence.answered()
    absence.slept_through(60)
    assert absence.overdue_s == 60
    answer_every_second(absence, clock, 1)
    assert absence.overdue_s == 61
    answer_every_second(absence, clock, 1)
    assert absence.overdue_s == 0
