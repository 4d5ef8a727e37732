"""Calls at a steady rate, whether or not earlier ones have been answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True)
class Served:
    """How one call went; `failure` is None for one that got its text."""

    began: float
    took_s: float
    failure: str | None = None


@dataclass(slots=True)
class Load:
    """Open loop with Poisson arrivals; `served` is in the order of the ends."""

    call: Callable[[int], Awaitable[str | None]]  # takes the number, returns what failed
    rate: float  # calls per second
    random: Random
    served: list[Served] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Returns when the last call has ended."""
        due = time.monotonic()
        until, number = due + seconds, 0
        async with asyncio.TaskGroup() as calls:
            while due < until:
                await asyncio.sleep(due - time.monotonic())
                calls.create_task(self._serve(number))
                number += 1
                due += self.random.expovariate(self.rate)

    async def _serve(self, number: int) -> None:
        began = time.monotonic()
        failure = await self.call(number)
        self.served.append(Served(began, time.monotonic() - began, failure))

    @property
    def failures(self) -> Counter[str]:
        return Counter(served.failure for served in self.served if served.failure is not None)


def percentile(values: list[float], share: float) -> float:
    """Nearest rank; `share` from 0 to 1."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
