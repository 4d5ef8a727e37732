"""One run: traffic and faults from one seed, on one service, checked against the promises."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.aftermath import Aftermath, Footprint, footprint
from tests.chaos.asks import draw_asks
from tests.chaos.callers import SYNC_TIMEOUT_S, Callers
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, running_cluster
from tests.chaos.expectations import Expectations, undisturbed
from tests.chaos.faults import Injector
from tests.chaos.history import History
from tests.chaos.plans import Plan, draw_plans
from tests.chaos.promises import Promises, Violation
from tests.chaos.schedule import Fault, Fleet, draw_schedule
from tests.chaos.takeover import Takeover
from tests.chaos.weather import Weather, watch_for_stalls

NUM_ASKS = 40
TAKEOVER_SLACK_S = 2.0  # a lost worker's jobs start again within a lease and this
CLOSING_S = 1.0  # until the replicas have noticed that their callers are gone


@dataclass(frozen=True, slots=True)
class RunSettings:
    seed: int
    num_jobs: int
    num_faults: int
    concurrency: int
    fleet: Fleet

    @property
    def takeover_bound_s(self) -> float:
        return self.fleet.lease_s + TAKEOVER_SLACK_S

    @property
    def schedule(self) -> list[Fault]:
        return draw_schedule(self.seed, self.num_faults, self.num_jobs, self.fleet)


@dataclass(slots=True)
class Outcome:
    """Everything that a report needs."""

    settings: RunSettings
    history: History = field(default_factory=History)
    weather: Weather = field(default_factory=Weather)
    takeovers: list[Takeover] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def clean_takeovers(self) -> list[Takeover]:
        """Those during which nothing was broken that workers need, but the worker itself."""
        return [each for each in self.takeovers if not self._is_disturbed(each)]

    def _is_disturbed(self, takeover: Takeover) -> bool:
        until = takeover.struck + self.settings.takeover_bound_s
        outages = self.weather.during(takeover.struck, until)
        others = sum(outage.reaches_workers for outage in outages) > 1
        return others or self.weather.stood_still(takeover.struck, until)


async def run(settings: RunSettings, folder: Path) -> Outcome:
    outcome = Outcome(settings)
    watch = asyncio.create_task(watch_for_stalls(outcome.weather))
    try:
        async with running_cluster(
            folder, settings.fleet, api={"sync_timeout_s": SYNC_TIMEOUT_S}
        ) as cluster:
            await Run(settings, cluster, outcome).go()
    finally:
        watch.cancel()
    return outcome


class Run:
    def __init__(self, settings: RunSettings, cluster: Cluster, outcome: Outcome) -> None:
        self._settings = settings
        self._cluster = cluster
        self._outcome = outcome
        self._client = Client(cluster.urls, Random(f"{settings.seed}:replicas"))
        self._injector = Injector(cluster, outcome.weather)
        self._aftermath = Aftermath(cluster, outcome.history, outcome.weather, settings.concurrency)

    async def go(self) -> None:
        settings, outcome = self._settings, self._outcome
        asks = draw_asks(settings.seed, min(NUM_ASKS, max(2, settings.num_jobs // 4)))
        try:
            expected = await undisturbed(self._cluster.urls, asks)
            before = await footprint(self._cluster)
            random = Random(f"{settings.seed}:callers")
            callers = Callers(self._client, outcome.history, random)
            started = time.monotonic()
            await self._disturbed(callers, draw_plans(settings.seed, settings.num_jobs, asks))
            outcome.wall_s = time.monotonic() - started
            await self._judge(callers, expected, before)
        finally:
            await self._client.close()

    async def _disturbed(self, callers: Callers, plans: list[Plan]) -> None:
        """Traffic and faults keep step: a fault strikes at its call, however slow the machine."""
        slots = asyncio.Semaphore(self._settings.concurrency)
        faults = iter(self._settings.schedule)
        fault, num_jobs = next(faults, None), 0
        async with asyncio.TaskGroup() as calls:
            for plan in plans:
                while fault is not None and fault.after_jobs <= num_jobs:
                    await self._injector.begin(fault)
                    fault = next(faults, None)
                num_jobs += plan.asks_for_a_job
                await slots.acquire()
                call = calls.create_task(callers.run(plan))
                call.add_done_callback(lambda _: slots.release())
        await self._injector.all_over()

    async def _judge(self, callers: Callers, expected: Expectations, before: Footprint) -> None:
        outcome = self._outcome
        await self._cluster.all_live()
        outcome.violations += await self._aftermath.settle()
        await self._look_again(callers)
        promises = Promises(outcome.weather, expected)
        for story in outcome.history.stories:
            outcome.violations += promises.broken_by(story)
        outcome.violations += await self._aftermath.violations(before)
        outcome.takeovers = self._injector.takeovers.takeovers
        outcome.violations += self._late_takeovers()
        outcome.violations += [Violation("processes end well", s) for s in self._injector.unclean]

    async def _look_again(self, callers: Callers) -> None:
        """Every job once more, and then no connection is left open."""
        stories = iter(self._outcome.history.stories)

        async def look_at_the_rest() -> None:
            for story in stories:
                await callers.look_again(story)

        await asyncio.gather(*(look_at_the_rest() for _ in range(self._settings.concurrency)))
        await self._client.close()
        await asyncio.sleep(CLOSING_S)

    def _late_takeovers(self) -> list[Violation]:
        return [
            Violation("lost jobs start again soon", f"{each.job_id} waited {each.waited_s} s")
            for each in self._outcome.clean_takeovers
            if each.waited_s is None or each.waited_s > self._settings.takeover_bound_s
        ]
