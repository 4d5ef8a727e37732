"""`python -m tests.chaos.rolling`: replace every process under load; no request may fail.

A call is tried again only where the connection was refused: nobody listens there at the moment.
"""

import asyncio
import json
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from tests.chaos.asks import Ask, draw_asks
from tests.chaos.cluster import Cluster, Settings, running_cluster
from tests.chaos.command import carry_out
from tests.chaos.connections import new_http
from tests.chaos.load import Load, percentile
from tests.chaos.members import Member
from tests.chaos.schedule import Fleet

CALL_TIMEOUT_S = 60.0
TRY_ELSEWHERE_S = 0.1
GRACE_S = 30.0  # what Kubernetes gives a pod by default


class Caller:
    """Sync calls, streams and polls in turn, at any replica."""

    def __init__(self, cluster: Cluster, asks: list[Ask], random: Random) -> None:
        self.num_refused = 0
        self._urls = list(cluster.urls.values())
        self._asks = asks
        self._random = random
        self._http = new_http(CALL_TIMEOUT_S)

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, number: int) -> str | None:
        """What failed, None where the text came."""
        ask = self._asks[number % len(self._asks)]
        ways = (self._wait, self._stream, self._poll)
        try:
            status = await ways[number % len(ways)](ask)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if status == "succeeded" else status

    async def _wait(self, ask: Ask) -> str:
        response = await self._send("POST", "/chat", ask.body)
        return "succeeded" if response.status_code == 200 else f"{response.status_code}"

    async def _stream(self, ask: Ask) -> str:
        response = await self._send("POST", "/chat", {**ask.body, "stream": True})
        if response.status_code != 200:
            return f"stream: {response.status_code}"
        lines = [line for line in response.text.splitlines() if line.startswith("data:")]
        last: dict[str, Any] = json.loads(lines[-1].removeprefix("data:")) if lines else {}
        return str(last.get("status", "a stream without an end"))

    async def _poll(self, ask: Ask) -> str:
        response = await self._send("POST", "/jobs", ask.body)
        if response.status_code != 202:
            return f"submission: {response.status_code}"
        job_id, deadline = response.json()["id"], time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            response = await self._send("GET", f"/jobs/{job_id}?wait=5")
            if response.status_code != 200:
                return f"poll: {response.status_code}"
            if (status := response.json()["status"]) not in ("queued", "running"):
                return str(status)
        return "a job without an end"

    async def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        while True:
            try:
                url = self._random.choice(self._urls) + path
                return await self._http.request(method, url, json=body)
            except httpx.ConnectError:
                self.num_refused += 1
                await asyncio.sleep(TRY_ELSEWHERE_S)


async def restart_all(cluster: Cluster, seconds: float) -> list[float]:
    """One after the other, evenly over the time; how long each was away."""
    away_s = []
    members = [*cluster.workers, *cluster.apis]
    for member in members:
        began = time.monotonic()
        await restart(member)
        away_s.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, seconds / len(members) - away_s[-1]))
    return away_s


async def restart(member: Member) -> None:
    exit_code = await member.terminate()
    assert exit_code == 0, f"{member.worker_id} ended with {exit_code}"
    member.start()
    await member.ready()


async def roll(fleet: Fleet, rate: float, seconds: float, folder: Path, console: Console) -> bool:
    """Whether no request failed."""
    grace: Settings = {"grace_s": GRACE_S}
    async with running_cluster(folder, fleet, api=grace, worker=grace, has_links=False) as cluster:
        caller = Caller(cluster, draw_asks(1, 30, longest=60), Random(1))
        load = Load(caller.call, rate, Random(2))
        try:
            _, away_s = await asyncio.gather(load.run(seconds), restart_all(cluster, 0.9 * seconds))
        finally:
            await caller.close()
    took = [served.took_s for served in load.served]
    console.print(
        f"{len(took)} requests at {rate:g}/s for {seconds:g} s, {len(away_s)} processes replaced, "
        f"each away for {max(away_s):.1f} s at most; {caller.num_refused} refused connections were "
        f"tried again; took p50 {percentile(took, 0.5):.2f} s, p99 {percentile(took, 0.99):.2f} s"
    )
    console.print(f"failed: {load.failures.total()} {dict(load.failures) or ''}")
    return not load.failures


def main(
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 20.0,
    seconds: Annotated[float, typer.Option(help="How long.")] = 120.0,
    apis: Annotated[int, typer.Option(min=2, help="Api replicas.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 3,
) -> None:
    """Exits 1 when a request failed."""
    carry_out(partial(roll, Fleet(apis, workers, lease_s=10.0), rate, seconds))


if __name__ == "__main__":
    typer.run(main)
