"""Simulate a load on a real queue, with workers that are scaled by the manifest."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from redis.asyncio import Redis

from shared.errors import QueueFull
from shared.protocol import ChatJob
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.registry.worker_registry import Registry
from tools.scaling_sim.autoscaler import Autoscaler, Rules
from tools.scaling_sim.fleet import Fleet

TICK_S = 2  # must divide all times of the scenario and the polling interval
MAX_QUEUED = 10_000


@dataclass(frozen=True, slots=True)
class Moment:
    """State of the simulation at one time."""

    at_s: float
    replicas: int
    ready: int
    waiting: int
    wait_s: float | None  # longest wait of the jobs that started, None without any
    refused: int


@dataclass(slots=True)
class SimulationResult:
    """Result of a simulation."""

    moments: list[Moment] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Parameters of a simulation. Refused clients do not retry."""

    rate: Callable[[float], float]  # requests per second at a time
    until_s: float
    slots: int
    service_s: float
    load_s: float


async def simulate(redis: Redis, rules: Rules, scenario: Scenario) -> SimulationResult:
    keys = Keys()
    queue = JobQueue(redis, keys)
    fleet = Fleet(
        queue,
        Registry(redis, keys),
        slots=scenario.slots,
        service_s=scenario.service_s,
        load_s=scenario.load_s,
    )
    scaler, result = Autoscaler(rules), SimulationResult(finished=fleet.finished)
    accepted_at: dict[str, float] = {}
    for tick in range(round(scenario.until_s / TICK_S)):
        now = tick * TICK_S
        before = result.refused
        await _arrive(queue, round(scenario.rate(now) * TICK_S), now, result, accepted_at)
        if now % rules.polling_s == 0:
            await fleet.resize(now, scaler.observe(now, int(await redis.zcard(keys.queue))))
        await fleet.step(now, accepted_at)
        result.moments.append(
            Moment(
                at_s=now,
                replicas=len(fleet.workers),
                ready=len(fleet.ready(now)),
                waiting=(await queue.depth()).waiting,
                wait_s=max(fleet.waits_s, default=None),
                refused=result.refused - before,
            )
        )
    return result


async def _arrive(
    queue: JobQueue,
    number: int,
    now: float,
    result: SimulationResult,
    accepted_at: dict[str, float],
) -> None:
    jobs = [ChatJob(id=uuid4().hex, prompt="", generate_kwargs={}, seed=0) for _ in range(number)]
    answers = await asyncio.gather(
        *(queue.enqueue(job, reply_to=None, max_queued=MAX_QUEUED) for job in jobs),
        return_exceptions=True,
    )
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, QueueFull):
            result.refused += 1
        elif isinstance(answer, BaseException):
            raise answer
        else:
            result.accepted.append(job.id)
            accepted_at[job.id] = now
