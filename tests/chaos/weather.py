"""What was broken when: the times in which a promise allows what it does not allow otherwise."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.chaos.schedule import TARGETS, Fault, FaultKind, Target

RECOVERY_S = 5.0  # after a fault is put right, the service may still answer 503 for this long
ALL = "all"
TICK_S = 0.25
STALL_S = 0.5  # a tick this late: the machine stood still; the api waits 1.8 s for Redis


@dataclass(slots=True)
class Outage:
    """One fault at work; `ended` is None while it lasts."""

    fault: Fault
    began: float
    ended: float | None = None

    def overlaps(self, began: float, ended: float) -> bool:
        over = self.ended is None or self.ended + RECOVERY_S >= began
        return over and self.began <= ended

    @property
    def reaches_workers(self) -> bool:
        return not self.fault.member.startswith(str(Target.API))

    def __str__(self) -> str:
        return f"{self.fault.kind} of {self.fault.member}"


@dataclass(slots=True)
class Weather:
    outages: list[Outage] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)  # the machine stood still

    @contextmanager
    def broken(self, fault: Fault) -> Iterator[Outage]:
        outage = Outage(fault, time.monotonic())
        self.outages.append(outage)
        try:
            yield outage
        finally:
            outage.ended = time.monotonic()

    def during(self, began: float, ended: float) -> list[Outage]:
        return [outage for outage in self.outages if outage.overlaps(began, ended)]

    def redis_was_away(self, replica: str, began: float, ended: float) -> bool:
        """For this replica: Redis itself, or the way there."""
        return any(
            TARGETS[outage.fault.kind] is Target.REDIS or outage.fault.member in (replica, ALL)
            for outage in self.during(began, ended)
            if TARGETS[outage.fault.kind] in (Target.REDIS, Target.NETWORK)
        )

    def was_ending(self, replica: str, began: float, ended: float) -> bool:
        """Whether the replica was killed or stopped, or was not back yet."""
        return any(
            outage.fault.member == replica
            for outage in self.during(began, ended)
            if outage.fault.kind in (FaultKind.API_KILL, FaultKind.API_STOP)
        )

    def stood_still(self, began: float, ended: float) -> bool:
        return any(a <= ended and began <= b for a, b in self.stalls)


async def watch_for_stalls(weather: Weather) -> None:
    """Time stands still now and then for a process on a shared machine; no promise covers that."""
    before = time.monotonic()
    while True:
        await asyncio.sleep(TICK_S)
        now = time.monotonic()
        if now - before > TICK_S + STALL_S:
            weather.stalls.append((before, now))
        before = now
