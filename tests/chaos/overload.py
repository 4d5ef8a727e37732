"""`python -m tests.chaos.overload`: ten times the load that the service can serve.

From callers who each ask for something else, and come back when they are told to.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated

import httpx
import typer
from rich.console import Console

from tests.chaos.cluster import Cluster, Settings, running_cluster
from tests.chaos.command import carry_out
from tests.chaos.connections import new_http
from tests.chaos.holdings import Observations
from tests.chaos.load import Load, percentile
from tests.chaos.schedule import Fleet

CALL_TIMEOUT_S = 300.0
ROWS = 4
WORK = {"do_sample": False, "max_new_tokens": 500, "eos_token_id": None}
MAX_GROWTH_MB = 150.0
LATENCY_SLACK = 1.5  # over the time that a full queue takes, at the measured capacity
LATENCY_SPARE_S = 2.0


@dataclass(frozen=True, slots=True)
class Refusal:
    told_s: float
    needed_s: float | None  # until the caller was let in; None: it gave up before


@dataclass(slots=True)
class Crowd:
    """Callers who give up after `patience_s`; what they were told and what they got."""

    http: httpx.AsyncClient
    urls: list[str]
    random: Random
    patience_s: float
    latencies: list[float] = field(default_factory=list)  # of calls that were let in
    refusals: list[Refusal] = field(default_factory=list)
    num_let_in_on_return: int = 0
    num_returns: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    async def call(self, number: int) -> str | None:
        """One caller, from its first try to its text or its giving up."""
        until, refused = time.monotonic() + self.patience_s, list[tuple[float, float]]()
        body = {"prompt": f"Story {number}: once upon a time", "generate_kwargs": WORK}
        while True:
            began = time.monotonic()
            response = await self.http.post(self.random.choice(self.urls) + "/chat", json=body)
            self.answers[f"{response.status_code}"] += 1
            self.num_returns += bool(refused)
            if response.status_code != 429:
                self._note_served(began, refused)
                return None if response.status_code == 200 else f"{response.status_code}"
            told_s = float(response.headers["Retry-After"])
            refused.append((began, told_s))
            if began + told_s > until:
                self.refusals += [Refusal(told_s, None) for _, told_s in refused]
                return None
            await asyncio.sleep(told_s)

    def _note_served(self, began: float, refused: list[tuple[float, float]]) -> None:
        self.latencies.append(time.monotonic() - began)
        self.num_let_in_on_return += bool(refused)
        self.refusals += [Refusal(told_s, began - at) for at, told_s in refused]


async def capacity(crowd: Crowd, seconds: float) -> float:
    """Jobs per second with every row busy."""
    until, num_done = time.monotonic() + seconds, 0

    async def keep_busy() -> None:
        nonlocal num_done
        while time.monotonic() < until:
            assert await crowd.call(0) is None
            num_done += 1

    began = time.monotonic()
    await asyncio.gather(*(keep_busy() for _ in range(2 * ROWS)))
    return num_done / (time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Trial:
    factor: float
    seconds: float
    max_queued: int
    patience_s: float


async def overload(cluster: Cluster, trial: Trial, console: Console) -> list[str]:
    """What was not as promised."""
    observations = Observations()
    async with new_http(CALL_TIMEOUT_S) as http:
        urls = list(cluster.urls.values())
        per_s = await capacity(Crowd(http, urls, Random(1), CALL_TIMEOUT_S), 10.0)
        crowd = Crowd(http, urls, Random(2), trial.patience_s)
        load = Load(crowd.call, trial.factor * per_s, Random(3))
        async with observations.watching(cluster):
            began = time.monotonic()
            await load.run(trial.seconds)
    loaded_per_s = len(crowd.latencies) / (time.monotonic() - began)
    bound_s = LATENCY_SLACK * (trial.max_queued + ROWS) / loaded_per_s + LATENCY_SPARE_S
    console.print(
        f"capacity {per_s:.1f} jobs/s, under load {loaded_per_s:.1f}; {len(load.served)} callers "
        f"in {trial.seconds:g} s, answers {dict(crowd.answers)}"
    )
    report_latency(crowd, bound_s, console)
    report_refusals(crowd, console)
    growth = observations.memory_growth_mb()
    console.print("memory grew by, MB:", {name: round(mb) for name, mb in growth.items()})
    return complaints(load, crowd, bound_s, growth)


def report_latency(crowd: Crowd, bound_s: float, console: Console) -> None:
    console.print(
        f"{len(crowd.latencies)} were let in: p50 {percentile(crowd.latencies, 0.5):.1f} s, "
        f"p99 {percentile(crowd.latencies, 0.99):.1f} s; the queue limit allows {bound_s:.1f} s"
    )


def report_refusals(crowd: Crowd, console: Console) -> None:
    """How true Retry-After was: against the time until the caller was let in."""
    ratios = [r.needed_s / r.told_s for r in crowd.refusals if r.needed_s is not None]
    told = [refusal.told_s for refusal in crowd.refusals]
    if not told:
        console.print("nobody was refused")
        return
    within = sum(0.5 <= ratio <= 2 for ratio in ratios)
    gave_up = sum(refusal.needed_s is None for refusal in crowd.refusals)
    console.print(
        f"{len(told)} refusals, told to come back in {min(told):g} to {max(told):g} s "
        f"(p50 {percentile(told, 0.5):g} s); of {crowd.num_returns} returns "
        f"{crowd.num_let_in_on_return} were let in"
    )
    console.print(
        f"{within} of {len(ratios)} refusals of callers who were let in later told the time within "
        f"a factor of 2; {gave_up} refusals of callers who gave up"
    )


def complaints(load: Load, crowd: Crowd, bound_s: float, growth: dict[str, float]) -> list[str]:
    found = [f"{count} calls failed: {what}" for what, count in load.failures.items()]
    if percentile(crowd.latencies, 0.99) > bound_s:
        found.append("the slowest calls took longer than the queue limit allows")
    found += [f"{name} grew by {mb:.0f} MB" for name, mb in growth.items() if mb > MAX_GROWTH_MB]
    return found


async def run(trial: Trial, folder: Path, console: Console) -> bool:
    """Whether all was as promised."""
    fleet = Fleet(num_apis=2, num_workers=1, lease_s=10.0)
    api: Settings = {"max_queued": trial.max_queued, "sync_timeout_s": CALL_TIMEOUT_S}
    worker: Settings = {"max_rows": ROWS}
    async with running_cluster(folder, fleet, api=api, worker=worker, has_links=False) as cluster:
        found = await overload(cluster, trial, console)
    for complaint in found:
        console.print(f"[red]{complaint}[/red]")
    return not found


def main(
    factor: Annotated[float, typer.Option(help="Callers per second, in capacities.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="How long callers arrive.")] = 60.0,
    max_queued: Annotated[int, typer.Option(help="The queue's limit.")] = 30,
    patience_s: Annotated[float, typer.Option(help="Then a caller gives up.")] = 60.0,
) -> None:
    """Exits 1 when a call failed, waited for too long or a process grew without bound."""
    carry_out(partial(run, Trial(factor, seconds, max_queued, patience_s)))


if __name__ == "__main__":
    typer.run(main)
