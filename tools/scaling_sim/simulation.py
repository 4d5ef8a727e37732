"""A load, a real queue, and workers scaled as the manifest says, in simulated time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.errors import QueueFull
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.worker_registry import Registry
from tests.factories import make_job
from tools.scaling_sim.autoscaler import Autoscaler, Rules
from tools.scaling_sim.fleet import Fleet

TICK_S = 2  # divides every time of the scenario and the polling interval
MAX_QUEUED = 10_000


@dataclass(frozen=True, slots=True)
class Moment:
    """`wait_s`: of the job that waited longest among those that began, None when none did."""

    at_s: float
    replicas: int
    ready: int
    waiting: int
    wait_s: float | None
    refused: int


@dataclass(slots=True)
class Story:
    moments: list[Moment] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`rate`: requests per second at a time; a caller who gets 429 does not come back."""

    rate: Callable[[float], float]
    until_s: float
    slots: int
    service_s: float
    load_s: float


async def simulate(redis: Redis, rules: Rules, scenario: Scenario) -> Story:
    keys = Keys()
    queue = JobQueue(redis, keys)
    fleet = Fleet(
        queue,
        Registry(redis, keys),
        slots=scenario.slots,
        service_s=scenario.service_s,
        load_s=scenario.load_s,
    )
    scaler, story = Autoscaler(rules), Story(finished=fleet.finished)
    accepted_at: dict[str, float] = {}
    for tick in range(round(scenario.until_s / TICK_S)):
        now = tick * TICK_S
        before = story.refused
        await _arrive(queue, round(scenario.rate(now) * TICK_S), now, story, accepted_at)
        if now % rules.polling_s == 0:
            await fleet.resize(now, scaler.observe(now, int(await redis.zcard(keys.queue))))
        await fleet.step(now, accepted_at)
        story.moments.append(
            Moment(
                at_s=now,
                replicas=len(fleet.workers),
                ready=len(fleet.ready(now)),
                waiting=(await queue.depth()).waiting,
                wait_s=max(fleet.waits_s, default=None),
                refused=story.refused - before,
            )
        )
    return story


async def _arrive(
    queue: JobQueue, number: int, now: float, story: Story, accepted_at: dict[str, float]
) -> None:
    jobs = [make_job() for _ in range(number)]
    answers = await asyncio.gather(
        *(queue.enqueue(job, reply_to=None, max_queued=MAX_QUEUED) for job in jobs),
        return_exceptions=True,
    )
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, QueueFull):
            story.refused += 1
        elif isinstance(answer, BaseException):
            raise answer
        else:
            story.accepted.append(job.id)
            accepted_at[job.id] = now
