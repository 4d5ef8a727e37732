"""One run: calls and faults from one seed on one service, checked against the guarantees."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.checks.expected_results import ExpectedResults, run_without_faults
from tests.chaos.checks.final_state import FinalState, Footprint, footprint
from tests.chaos.checks.guarantees import Guarantees, Violation
from tests.chaos.harness.call_log import RunLog
from tests.chaos.harness.callers import SYNC_TIMEOUT_S, Callers
from tests.chaos.harness.client import Client
from tests.chaos.harness.cluster import Cluster, running_cluster
from tests.chaos.harness.fault_injector import FaultInjector
from tests.chaos.harness.fault_timeline import FaultTimeline, record_stalls
from tests.chaos.harness.takeover import Takeover
from tests.chaos.scenarios.call_plans import CallPlan, draw_plans
from tests.chaos.scenarios.fault_schedule import Fault, Fleet, draw_schedule
from tests.chaos.scenarios.requests import draw_requests

NUM_REQUESTS = 40
TAKEOVER_MARGIN_S = 2.0  # after the lease, until another worker starts a lost worker's job
DISCONNECT_S = 1.0  # until the replicas have noticed the disconnects


@dataclass(frozen=True, slots=True)
class RunSettings:
    seed: int
    num_jobs: int
    num_faults: int
    concurrency: int
    fleet: Fleet

    @property
    def takeover_bound_s(self) -> float:
        return self.fleet.lease_s + TAKEOVER_MARGIN_S

    @property
    def schedule(self) -> list[Fault]:
        return draw_schedule(self.seed, self.num_faults, self.num_jobs, self.fleet)


@dataclass(slots=True)
class Outcome:
    """Everything that the report shows."""

    settings: RunSettings
    run_log: RunLog = field(default_factory=RunLog)
    timeline: FaultTimeline = field(default_factory=FaultTimeline)
    takeovers: list[Takeover] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def clean_takeovers(self) -> list[Takeover]:
        """Return the takeovers without another fault that affects workers."""
        return [each for each in self.takeovers if not self._is_run_with_faults(each)]

    def _is_run_with_faults(self, takeover: Takeover) -> bool:
        until = takeover.lost_at + self.settings.takeover_bound_s
        intervals = self.timeline.overlapping(takeover.lost_at, until)
        others = sum(interval.reaches_workers for interval in intervals) > 1
        return others or self.timeline.machine_stalled(takeover.lost_at, until)


async def run(settings: RunSettings, folder: Path) -> Outcome:
    outcome = Outcome(settings)
    watch = asyncio.create_task(record_stalls(outcome.timeline))
    try:
        async with running_cluster(
            folder, settings.fleet, api={"sync_timeout_s": SYNC_TIMEOUT_S}
        ) as cluster:
            await Run(settings, cluster, outcome).execute()
    finally:
        watch.cancel()
    return outcome


class Run:
    """Executes a run on a started cluster."""

    def __init__(self, settings: RunSettings, cluster: Cluster, outcome: Outcome) -> None:
        self._settings = settings
        self._cluster = cluster
        self._outcome = outcome
        self._client = Client(cluster.urls, Random(f"{settings.seed}:replicas"))
        self._injector = FaultInjector(cluster, outcome.timeline)
        self._final_state = FinalState(
            cluster, outcome.run_log, outcome.timeline, settings.concurrency
        )

    async def execute(self) -> None:
        settings, outcome = self._settings, self._outcome
        requests = draw_requests(settings.seed, min(NUM_REQUESTS, max(2, settings.num_jobs // 4)))
        try:
            expected = await run_without_faults(self._cluster.urls, requests)
            before = await footprint(self._cluster)
            random = Random(f"{settings.seed}:callers")
            callers = Callers(self._client, outcome.run_log, random)
            started = time.monotonic()
            await self._run_with_faults(
                callers, draw_plans(settings.seed, settings.num_jobs, requests)
            )
            outcome.wall_s = time.monotonic() - started
            await self._check(callers, expected, before)
        finally:
            await self._client.close()

    async def _run_with_faults(self, callers: Callers, plans: list[CallPlan]) -> None:
        """Start calls and faults in their drawn order, however slow the machine is."""
        slots = asyncio.Semaphore(self._settings.concurrency)
        faults = iter(self._settings.schedule)
        fault, num_jobs = next(faults, None), 0
        async with asyncio.TaskGroup() as calls:
            for plan in plans:
                while fault is not None and fault.after_jobs <= num_jobs:
                    await self._injector.start(fault)
                    fault = next(faults, None)
                num_jobs += plan.submits_job
                await slots.acquire()
                call = calls.create_task(callers.run(plan))
                call.add_done_callback(lambda _: slots.release())
        await self._injector.wait_until_repaired()

    async def _check(self, callers: Callers, expected: ExpectedResults, before: Footprint) -> None:
        outcome = self._outcome
        await self._cluster.wait_until_registered()
        outcome.violations += await self._final_state.wait_until_idle()
        await self._observe_all_again(callers)
        guarantees = Guarantees(outcome.timeline, expected)
        for log in outcome.run_log.logs:
            outcome.violations += guarantees.violations_in(log)
        outcome.violations += await self._final_state.violations(before)
        outcome.takeovers = self._injector.takeovers.takeovers
        outcome.violations += self._late_takeovers()
        outcome.violations += [
            Violation("processes exit with code 0", s) for s in self._injector.bad_exits
        ]

    async def _observe_all_again(self, callers: Callers) -> None:
        """Observe the final state of every job, then close all connections."""
        logs = iter(self._outcome.run_log.logs)

        async def observe_rest() -> None:
            for log in logs:
                await callers.observe_again(log)

        await asyncio.gather(*(observe_rest() for _ in range(self._settings.concurrency)))
        await self._client.close()
        await asyncio.sleep(DISCONNECT_S)

    def _late_takeovers(self) -> list[Violation]:
        return [
            Violation(
                "lost jobs restart within the lease and a margin",
                f"{each.job_id} waited {each.waited_s} s",
            )
            for each in self._outcome.clean_takeovers
            if each.waited_s is None or each.waited_s > self._settings.takeover_bound_s
        ]
