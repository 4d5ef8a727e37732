"""`python -m tests.chaos.endurance --minutes 30`: mixed load; nothing may grow.

Every promise is checked too, batch by batch, so that the harness itself does not grow.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console

from shared.queue.keys import TOMBSTONE_S
from tests.chaos.aftermath import CANCEL_TAKES_S
from tests.chaos.asks import draw_asks
from tests.chaos.callers import Callers
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, running_cluster
from tests.chaos.command import carry_out
from tests.chaos.expectations import Expectations, undisturbed
from tests.chaos.history import History
from tests.chaos.holdings import Holdings, Observations
from tests.chaos.plans import Plan, draw_plans
from tests.chaos.promises import Promises
from tests.chaos.schedule import Fleet
from tests.chaos.weather import Weather, watch_for_stalls

BATCH = 200  # jobs whose stories are kept at a time
TTL_S = 60
LOOK_EVERY_S = 5.0
MORE_MEMORY = 1.05  # of the last third over the second; allocators settle slowly
MORE_MEMORY_MB = 10.0
MORE_OPEN = 8  # descriptors and connections
MORE_PER_JOB = 1.1  # keys and memory that a job leaves for a while


@dataclass(slots=True)
class Endurance:
    cluster: Cluster
    seed: int
    concurrency: int
    observations: Observations = field(default_factory=Observations)
    weather: Weather = field(default_factory=Weather)
    broken: list[str] = field(default_factory=list)
    num_calls: int = 0

    async def run(self, seconds: float) -> None:
        asks = draw_asks(self.seed, 30)
        expected = await undisturbed(self.cluster.urls, asks)
        client = Client(self.cluster.urls, Random(self.seed))
        until, batch = time.monotonic() + seconds, 0
        watch = asyncio.create_task(watch_for_stalls(self.weather))
        try:
            async with self.observations.watching(self.cluster, LOOK_EVERY_S):
                while time.monotonic() < until:
                    callers = Callers(client, history := History(), Random(batch))
                    await self._batch(callers, draw_plans(self.seed + batch, BATCH, asks), until)
                    self._judge(history, expected)
                    batch += 1
        finally:
            watch.cancel()
            await client.close()

    async def _batch(self, callers: Callers, plans: list[Plan], until: float) -> None:
        rest = iter([replace(plan, ttl_s=TTL_S) for plan in plans])

        async def take_turns() -> None:
            for plan in rest:
                if time.monotonic() < until:
                    story = await callers.run(plan)
                    await callers.look_again(story, CANCEL_TAKES_S)

        await asyncio.gather(*(take_turns() for _ in range(self.concurrency)))

    def _judge(self, history: History, expected: Expectations) -> None:
        promises = Promises(self.weather, expected)
        for story in history.stories:
            found = promises.broken_by(story)
            self.broken += [f"{story.plan}: {violation.what}" for violation in found]
        self.num_calls += len(history.stories)


@dataclass(frozen=True, slots=True)
class Trend:
    """Medians of the second and of the last third of the time."""

    name: str
    before: float
    after: float
    allowed: float

    @property
    def grew(self) -> bool:
        return self.after > self.allowed

    def __str__(self) -> str:
        return f"{self.name}: {self.before:.3g} → {self.after:.3g}{' (grew)' if self.grew else ''}"


def trends(seen: list[Holdings]) -> list[Trend]:
    found = []
    for name in seen[0].memory_mb:
        before, after = thirds([each.memory_mb[name] for each in seen])
        allowed = before * MORE_MEMORY + MORE_MEMORY_MB
        found.append(Trend(f"memory of {name}, MB", before, after, allowed))
    for name in seen[0].num_fds:
        before, after = thirds([each.num_fds[name] for each in seen])
        found.append(Trend(f"descriptors of {name}", before, after, before + MORE_OPEN))
    before, after = thirds([each.num_connections for each in seen])
    found.append(Trend("connections to Redis", before, after, before + MORE_OPEN))
    for name, hold in (
        ("keys in Redis by jobs kept", lambda each: each.num_keys),
        ("memory in Redis by jobs kept, kB", lambda each: 1000 * (each.data_mb - seen[0].data_mb)),
    ):
        if len(ratios := by_jobs_kept(seen, hold)) >= 3:
            before, after = thirds(ratios)
            found.append(Trend(name, before, after, before * MORE_PER_JOB))
    return found


def by_jobs_kept(seen: list[Holdings], hold: Callable[[Holdings], float]) -> list[float]:
    """What is held over the jobs whose records are not old enough to go; none before any is.

    Alone it would follow the pace of the machine.
    """
    ratios = []
    for now in seen:
        if now.at >= seen[0].at + TOMBSTONE_S:
            then = next(each for each in seen if each.at >= now.at - TOMBSTONE_S)
            ratios.append(hold(now) / max(1, now.num_accepted - then.num_accepted))
    return ratios


def thirds(values: Sequence[float]) -> tuple[float, float]:
    third = len(values) // 3
    return statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])


async def endure(fleet: Fleet, minutes: float, folder: Path, console: Console) -> bool:
    """Whether nothing grew and no promise was broken."""
    async with running_cluster(folder, fleet, has_links=False) as cluster:
        endurance = Endurance(cluster, seed=1, concurrency=6)
        await endurance.run(60 * minutes)
    seen = endurance.observations.seen
    console.print(f"{endurance.num_calls} calls in {minutes:g} minutes")
    found = trends(seen)
    for trend in found:
        console.print(str(trend), highlight=False)
    for what in endurance.broken:
        console.print(f"broken: {what}", markup=False)
    return not endurance.broken and not any(trend.grew for trend in found)


def main(
    minutes: Annotated[float, typer.Option(min=0.2, help="How long.")] = 30.0,
    apis: Annotated[int, typer.Option(min=1, help="Api replicas.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
) -> None:
    """Exits 1 when something grew."""
    carry_out(partial(endure, Fleet(apis, workers, lease_s=10.0), minutes))


if __name__ == "__main__":
    typer.run(main)
