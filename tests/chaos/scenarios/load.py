"""Open-loop load: calls start at a constant rate, however long earlier calls take."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True, slots=True)
class ServedCall:
    """Result of one call."""

    started: float
    took_s: float
    failure: str | None = None  # None for success


@dataclass(slots=True)
class Load:
    """Open-loop load with Poisson arrivals."""

    call: Callable[[int], Awaitable[str | None]]  # takes the call number, returns the failure
    rate: float  # calls per second
    random: Random
    served: list[ServedCall] = field(default_factory=list)  # in the order of completion

    async def run(self, seconds: float) -> None:
        """Start calls for `seconds` and return when the last of them has ended."""
        due = time.monotonic()
        until, number = due + seconds, 0
        async with asyncio.TaskGroup() as calls:
            while due < until:
                await asyncio.sleep(due - time.monotonic())
                calls.create_task(self._serve(number))
                number += 1
                due += self.random.expovariate(self.rate)

    async def _serve(self, number: int) -> None:
        started = time.monotonic()
        failure = await self.call(number)
        self.served.append(ServedCall(started, time.monotonic() - started, failure))

    @property
    def failures(self) -> Counter[str]:
        return Counter(served.failure for served in self.served if served.failure is not None)


def percentile(values: list[float], share: float) -> float:
    """Return the nearest-rank percentile; `share` is from 0 to 1."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
