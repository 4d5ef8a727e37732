"""`python -m tests.chaos.endurance --minutes 30`: mixed load under which no resource may grow.

The guarantees are checked batch by batch, so that the harness itself does not grow.
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

from shared.queue.keys import MIN_RECORD_TTL_S
from tests.chaos.checks.expected_results import ExpectedResults, run_without_faults
from tests.chaos.checks.final_state import CANCELLATION_S
from tests.chaos.checks.guarantees import Guarantees
from tests.chaos.checks.resource_samples import ResourceMonitor, ResourceSample
from tests.chaos.harness.call_log import RunLog
from tests.chaos.harness.callers import Callers
from tests.chaos.harness.client import Client
from tests.chaos.harness.cluster import Cluster, running_cluster
from tests.chaos.harness.command import run_command
from tests.chaos.harness.fault_timeline import FaultTimeline, record_stalls
from tests.chaos.scenarios.call_plans import CallPlan, draw_plans
from tests.chaos.scenarios.fault_schedule import Fleet
from tests.chaos.scenarios.requests import draw_requests

BATCH = 200  # jobs per batch, whose logs are then dropped
TTL_S = 60
SAMPLE_S = 5.0
MEMORY_FACTOR = 1.05  # last third over second third; allocators settle slowly
MEMORY_MARGIN_MB = 10.0
OPEN_MARGIN = 8  # file descriptors and connections
PER_JOB_FACTOR = 1.1  # keys and memory of a job whose record is kept


@dataclass(slots=True)
class Endurance:
    cluster: Cluster
    seed: int
    concurrency: int
    monitor: ResourceMonitor = field(default_factory=ResourceMonitor)
    timeline: FaultTimeline = field(default_factory=FaultTimeline)
    violations: list[str] = field(default_factory=list)
    num_calls: int = 0

    async def run(self, seconds: float) -> None:
        requests = draw_requests(self.seed, 30)
        expected = await run_without_faults(self.cluster.urls, requests)
        client = Client(self.cluster.urls, Random(self.seed))
        until, batch = time.monotonic() + seconds, 0
        watch = asyncio.create_task(record_stalls(self.timeline))
        try:
            async with self.monitor.watching(self.cluster, SAMPLE_S):
                while time.monotonic() < until:
                    callers = Callers(client, run_log := RunLog(), Random(batch))
                    await self._batch(
                        callers, draw_plans(self.seed + batch, BATCH, requests), until
                    )
                    self._check(run_log, expected)
                    batch += 1
        finally:
            watch.cancel()
            await client.close()

    async def _batch(self, callers: Callers, plans: list[CallPlan], until: float) -> None:
        rest = iter([replace(plan, ttl_s=TTL_S) for plan in plans])

        async def run_calls() -> None:
            for plan in rest:
                if time.monotonic() < until:
                    log = await callers.run(plan)
                    await callers.observe_again(log, CANCELLATION_S)

        await asyncio.gather(*(run_calls() for _ in range(self.concurrency)))

    def _check(self, run_log: RunLog, expected: ExpectedResults) -> None:
        guarantees = Guarantees(self.timeline, expected)
        for log in run_log.logs:
            found = guarantees.violations_in(log)
            self.violations += [f"{log.plan}: {violation.what}" for violation in found]
        self.num_calls += len(run_log.logs)


@dataclass(frozen=True, slots=True)
class Trend:
    """Medians of a resource in the second and in the last third of the run."""

    name: str
    before: float
    after: float
    allowed: float

    @property
    def grew(self) -> bool:
        return self.after > self.allowed

    def __str__(self) -> str:
        return f"{self.name}: {self.before:.3g} → {self.after:.3g}{' (grew)' if self.grew else ''}"


def trends(samples: list[ResourceSample]) -> list[Trend]:
    found = []
    for name in samples[0].memory_mb:
        before, after = thirds([each.memory_mb[name] for each in samples])
        allowed = before * MEMORY_FACTOR + MEMORY_MARGIN_MB
        found.append(Trend(f"memory of {name}, MB", before, after, allowed))
    for name in samples[0].num_fds:
        before, after = thirds([each.num_fds[name] for each in samples])
        found.append(Trend(f"descriptors of {name}", before, after, before + OPEN_MARGIN))
    before, after = thirds([each.num_connections for each in samples])
    found.append(Trend("connections to Redis", before, after, before + OPEN_MARGIN))
    for name, measure in (
        ("keys in Redis by jobs kept", lambda each: each.num_keys),
        (
            "memory in Redis by jobs kept, kB",
            lambda each: 1000 * (each.data_mb - samples[0].data_mb),
        ),
    ):
        if len(ratios := by_jobs_kept(samples, measure)) >= 3:
            before, after = thirds(ratios)
            found.append(Trend(name, before, after, before * PER_JOB_FACTOR))
    return found


def by_jobs_kept(
    samples: list[ResourceSample], measure: Callable[[ResourceSample], float]
) -> list[float]:
    """Return the ratio of a resource to the jobs whose records are kept, once records expire.

    The resource alone would follow the speed of the machine.
    """
    ratios = []
    for now in samples:
        if now.at >= samples[0].at + MIN_RECORD_TTL_S:
            then = next(each for each in samples if each.at >= now.at - MIN_RECORD_TTL_S)
            ratios.append(measure(now) / max(1, now.num_accepted - then.num_accepted))
    return ratios


def thirds(values: Sequence[float]) -> tuple[float, float]:
    third = len(values) // 3
    return statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])


async def run_load(fleet: Fleet, minutes: float, folder: Path, console: Console) -> bool:
    """Run the load; return whether no resource grew and no guarantee was violated."""
    async with running_cluster(folder, fleet, has_links=False) as cluster:
        endurance = Endurance(cluster, seed=1, concurrency=6)
        await endurance.run(60 * minutes)
    samples = endurance.monitor.samples
    console.print(f"{endurance.num_calls} calls in {minutes:g} minutes")
    found = trends(samples)
    for trend in found:
        console.print(str(trend), highlight=False)
    for what in endurance.violations:
        console.print(f"violation: {what}", markup=False)
    return not endurance.violations and not any(trend.grew for trend in found)


def main(
    minutes: Annotated[float, typer.Option(min=0.2, help="Duration.")] = 30.0,
    apis: Annotated[int, typer.Option(min=1, help="Api replicas.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
) -> None:
    """Exit with 1 if a resource grew or a guarantee was violated."""
    run_command(partial(run_load, Fleet(apis, workers, lease_s=10.0), minutes))


if __name__ == "__main__":
    typer.run(main)
