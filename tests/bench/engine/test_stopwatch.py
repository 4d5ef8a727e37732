"""The stopwatch on a clock that the test moves."""

from collections.abc import Iterator

import pytest

from bench.engine import stopwatch
from bench.engine.stopwatch import Stopwatch, replaced


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Work:
    """An outer function that takes 1 s and calls an inner function that takes 2 s."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def outer(self) -> str:
        self.clock.now += 1
        return self.inner()

    def inner(self) -> str:
        self.clock.now += 2
        return "done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    yield clock


def test_a_phase_does_not_include_inner_phases(clock: Clock) -> None:
    watch, work = Stopwatch(), Work(clock)
    with watch.watching(work, "outer", "a"), watch.watching(work, "inner", "b"):
        assert work.outer() == "done"
        work.inner()
    assert watch.seconds == {"a": 1.0, "b": 4.0}


def test_a_failing_function_is_timed_and_raises(clock: Clock) -> None:
    def fail() -> None:
        clock.now += 3
        raise ValueError("broken")

    watch = Stopwatch()
    with pytest.raises(ValueError, match="broken"):
        watch.wrap(fail, "failing")()
    assert watch.seconds == {"failing": 3.0}


def test_nothing_is_timed_while_paused_or_afterwards(clock: Clock) -> None:
    watch, work = Stopwatch(), Work(clock)
    with watch.watching(work, "inner", "b"):
        with watch.paused():
            work.inner()
        work.inner()
    work.inner()
    assert watch.seconds == {"b": 2.0}


def test_moving_keeps_the_sum(clock: Clock) -> None:
    watch, work = Stopwatch(), Work(clock)
    with watch.watching(work, "outer", "a"):
        work.outer()
    watch.move("a", "c", 0.5)
    assert watch.seconds == {"a": 2.5, "c": 0.5}


def test_replaced_attributes_are_restored(clock: Clock) -> None:
    work = Work(clock)
    with replaced(work, "inner", lambda: "fake"), replaced(Work, "outer", lambda self: "class"):
        assert (work.inner(), work.outer()) == ("fake", "class")
    assert vars(work) == {"clock": clock}
    assert work.outer() == "done"
