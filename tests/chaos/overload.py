"""`python -m tests.chaos.overload`: ten times the load that the service can serve.

Every client sends a different request, and retries after the delay in `Retry-After`.
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

from tests.chaos.checks.resource_samples import ResourceMonitor
from tests.chaos.harness.cluster import Cluster, Settings, running_cluster
from tests.chaos.harness.command import run_command
from tests.chaos.harness.connections import new_http
from tests.chaos.scenarios.fault_schedule import Fleet
from tests.chaos.scenarios.load import Load, percentile

CALL_TIMEOUT_S = 300.0
ROWS = 4
WORK = {"do_sample": False, "max_new_tokens": 500, "eos_token_id": None}
MAX_GROWTH_MB = 150.0
LATENCY_FACTOR = 1.5  # of the time in which the service empties a full queue
LATENCY_MARGIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429 response."""

    retry_after_s: float
    waited_s: float | None  # until the retry that was accepted; None: the client gave up


@dataclass(slots=True)
class Clients:
    """Clients that give up after `patience_s`, and the responses that they got."""

    http: httpx.AsyncClient
    urls: list[str]
    random: Random
    patience_s: float
    latencies: list[float] = field(default_factory=list)  # of accepted calls
    refusals: list[Refusal] = field(default_factory=list)
    num_accepted_retries: int = 0
    num_retries: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    async def call(self, number: int) -> str | None:
        """Send one request and retry it until it is accepted or the client gives up."""
        until, refused = time.monotonic() + self.patience_s, list[tuple[float, float]]()
        body = {"prompt": f"CallLog {number}: once upon a time", "generate_kwargs": WORK}
        while True:
            started = time.monotonic()
            response = await self.http.post(self.random.choice(self.urls) + "/chat", json=body)
            self.answers[f"{response.status_code}"] += 1
            self.num_retries += bool(refused)
            if response.status_code != 429:
                self._record_accepted(started, refused)
                return None if response.status_code == 200 else f"{response.status_code}"
            retry_after_s = float(response.headers["Retry-After"])
            refused.append((started, retry_after_s))
            if started + retry_after_s > until:
                self.refusals += [Refusal(retry_after_s, None) for _, retry_after_s in refused]
                return None
            await asyncio.sleep(retry_after_s)

    def _record_accepted(self, started: float, refused: list[tuple[float, float]]) -> None:
        self.latencies.append(time.monotonic() - started)
        self.num_accepted_retries += bool(refused)
        self.refusals += [Refusal(retry_after_s, started - at) for at, retry_after_s in refused]


async def measure_capacity(clients: Clients, seconds: float) -> float:
    """Return the throughput in jobs per second with all rows busy."""
    until, num_done = time.monotonic() + seconds, 0

    async def keep_busy() -> None:
        nonlocal num_done
        while time.monotonic() < until:
            assert await clients.call(0) is None
            num_done += 1

    started = time.monotonic()
    await asyncio.gather(*(keep_busy() for _ in range(2 * ROWS)))
    return num_done / (time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class Trial:
    """Parameters of a run."""

    factor: float
    seconds: float
    max_queued: int
    patience_s: float


async def run_trial(cluster: Cluster, trial: Trial, console: Console) -> list[str]:
    """Run the load and return the violations."""
    monitor = ResourceMonitor()
    async with new_http(CALL_TIMEOUT_S) as http:
        urls = list(cluster.urls.values())
        per_s = await measure_capacity(Clients(http, urls, Random(1), CALL_TIMEOUT_S), 10.0)
        clients = Clients(http, urls, Random(2), trial.patience_s)
        load = Load(clients.call, trial.factor * per_s, Random(3))
        async with monitor.watching(cluster):
            started = time.monotonic()
            await load.run(trial.seconds)
    loaded_per_s = len(clients.latencies) / (time.monotonic() - started)
    bound_s = LATENCY_FACTOR * (trial.max_queued + ROWS) / loaded_per_s + LATENCY_MARGIN_S
    console.print(
        f"capacity {per_s:.1f} jobs/s, under load {loaded_per_s:.1f}; {len(load.served)} clients "
        f"in {trial.seconds:g} s, answers {dict(clients.answers)}"
    )
    report_latency(clients, bound_s, console)
    report_refusals(clients, console)
    growth = monitor.memory_growth_mb()
    console.print("memory grew by, MB:", {name: round(mb) for name, mb in growth.items()})
    return find_violations(load, clients, bound_s, growth)


def report_latency(clients: Clients, bound_s: float, console: Console) -> None:
    console.print(
        f"{len(clients.latencies)} were accepted: p50 {percentile(clients.latencies, 0.5):.1f} s, "
        f"p99 {percentile(clients.latencies, 0.99):.1f} s; the queue limit allows {bound_s:.1f} s"
    )


def report_refusals(clients: Clients, console: Console) -> None:
    """Print how accurate `Retry-After` was, by the time until the client was accepted."""
    ratios = [r.waited_s / r.retry_after_s for r in clients.refusals if r.waited_s is not None]
    delays = [refusal.retry_after_s for refusal in clients.refusals]
    if not delays:
        console.print("no call was refused")
        return
    within = sum(0.5 <= ratio <= 2 for ratio in ratios)
    gave_up = sum(refusal.waited_s is None for refusal in clients.refusals)
    console.print(
        f"{len(delays)} refusals with Retry-After {min(delays):g} to {max(delays):g} s "
        f"(p50 {percentile(delays, 0.5):g} s); of {clients.num_retries} retries "
        f"{clients.num_accepted_retries} were accepted"
    )
    console.print(
        f"{within} of {len(ratios)} refusals of clients that were accepted later named the delay "
        f"within a factor of 2; {gave_up} refusals of clients that gave up"
    )


def find_violations(
    load: Load, clients: Clients, bound_s: float, growth: dict[str, float]
) -> list[str]:
    found = [f"{count} calls failed: {what}" for what, count in load.failures.items()]
    if percentile(clients.latencies, 0.99) > bound_s:
        found.append("p99 latency exceeds the time of a full queue")
    found += [f"{name} grew by {mb:.0f} MB" for name, mb in growth.items() if mb > MAX_GROWTH_MB]
    return found


async def run(trial: Trial, folder: Path, console: Console) -> bool:
    """Start the service, run the trial and return whether it had no violation."""
    fleet = Fleet(num_apis=2, num_workers=1, lease_s=10.0)
    api: Settings = {"max_queued": trial.max_queued, "sync_timeout_s": CALL_TIMEOUT_S}
    worker: Settings = {"max_rows": ROWS}
    async with running_cluster(folder, fleet, api=api, worker=worker, has_links=False) as cluster:
        found = await run_trial(cluster, trial, console)
    for violation in found:
        console.print(f"[red]{violation}[/red]")
    return not found


def main(
    factor: Annotated[float, typer.Option(help="Clients per second over the capacity.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="Duration of the arrivals.")] = 60.0,
    max_queued: Annotated[int, typer.Option(help="The queue's limit.")] = 30,
    patience_s: Annotated[float, typer.Option(help="Time after which a client gives up.")] = 60.0,
) -> None:
    """Exit with 1 if a call failed or took too long, or if a process grew too much."""
    run_command(partial(run, Trial(factor, seconds, max_queued, patience_s)))


if __name__ == "__main__":
    typer.run(main)
