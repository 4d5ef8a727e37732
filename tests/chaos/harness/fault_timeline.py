"""Timeline of the faults: during a fault the guarantees allow errors that they forbid otherwise."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.chaos.scenarios.fault_schedule import TARGET_KINDS, Fault, FaultKind, TargetKind

RECOVERY_S = 5.0  # after the repair of a fault the service may still answer 503
ALL = "all"
TICK_S = 0.25
STALL_S = 0.5  # a tick this late means a machine stall; the api waits 1.8 s for Redis


@dataclass(slots=True)
class FaultInterval:
    """Time during which a fault was active."""

    fault: Fault
    started: float
    ended: float | None = None  # None while it is active

    def overlaps(self, started: float, ended: float) -> bool:
        is_open = self.ended is None or self.ended + RECOVERY_S >= started
        return is_open and self.started <= ended

    @property
    def reaches_workers(self) -> bool:
        return not self.fault.target.startswith(str(TargetKind.API))

    def __str__(self) -> str:
        return f"{self.fault.kind} of {self.fault.target}"


@dataclass(slots=True)
class FaultTimeline:
    intervals: list[FaultInterval] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)  # of the machine: start and end

    @contextmanager
    def record(self, fault: Fault) -> Iterator[FaultInterval]:
        interval = FaultInterval(fault, time.monotonic())
        self.intervals.append(interval)
        try:
            yield interval
        finally:
            interval.ended = time.monotonic()

    def overlapping(self, started: float, ended: float) -> list[FaultInterval]:
        return [interval for interval in self.intervals if interval.overlaps(started, ended)]

    def redis_was_unreachable(self, replica: str, started: float, ended: float) -> bool:
        """Return whether a fault of Redis, or of the replica's link to it, was active."""
        return any(
            TARGET_KINDS[interval.fault.kind] is TargetKind.REDIS
            or interval.fault.target in (replica, ALL)
            for interval in self.overlapping(started, ended)
            if TARGET_KINDS[interval.fault.kind] in (TargetKind.REDIS, TargetKind.NETWORK)
        )

    def was_down(self, replica: str, started: float, ended: float) -> bool:
        """Return whether the replica was stopped, killed or not yet ready again."""
        return any(
            interval.fault.target == replica
            for interval in self.overlapping(started, ended)
            if interval.fault.kind in (FaultKind.API_KILL, FaultKind.API_STOP)
        )

    def machine_stalled(self, started: float, ended: float) -> bool:
        return any(a <= ended and started <= b for a, b in self.stalls)


async def record_stalls(timeline: FaultTimeline) -> None:
    """Record when the machine stalls: no guarantee covers a process that gets no CPU time."""
    before = time.monotonic()
    while True:
        await asyncio.sleep(TICK_S)
        now = time.monotonic()
        if now - before > TICK_S + STALL_S:
            timeline.stalls.append((before, now))
        before = now
