"""`python -m tests.chaos.rolling`: restart every process under load; no request may fail.

A call is retried only after a refused connection.
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

from tests.chaos.harness.cluster import Cluster, Settings, running_cluster
from tests.chaos.harness.command import run_command
from tests.chaos.harness.connections import new_http
from tests.chaos.harness.service_process import ServiceProcess
from tests.chaos.scenarios.fault_schedule import Fleet
from tests.chaos.scenarios.load import Load, percentile
from tests.chaos.scenarios.requests import Request, draw_requests

CALL_TIMEOUT_S = 60.0
RETRY_S = 0.1
GRACE_S = 30.0  # default of Kubernetes


class Caller:
    """Sends synchronous calls, streams and polls in turn to random replicas."""

    def __init__(self, cluster: Cluster, requests: list[Request], random: Random) -> None:
        self.num_refused = 0
        self._urls = list(cluster.urls.values())
        self._requests = requests
        self._random = random
        self._http = new_http(CALL_TIMEOUT_S)

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, number: int) -> str | None:
        """Send call `number` and return what failed, or None."""
        request = self._requests[number % len(self._requests)]
        senders = (self._wait, self._stream, self._poll)
        try:
            status = await senders[number % len(senders)](request)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if status == "succeeded" else status

    async def _wait(self, request: Request) -> str:
        response = await self._send("POST", "/chat", request.body)
        return "succeeded" if response.status_code == 200 else f"{response.status_code}"

    async def _stream(self, request: Request) -> str:
        response = await self._send("POST", "/chat", {**request.body, "stream": True})
        if response.status_code != 200:
            return f"stream: {response.status_code}"
        lines = [line for line in response.text.splitlines() if line.startswith("data:")]
        last: dict[str, Any] = json.loads(lines[-1].removeprefix("data:")) if lines else {}
        return str(last.get("status", "a stream without a terminal event"))

    async def _poll(self, request: Request) -> str:
        response = await self._send("POST", "/jobs", request.body)
        if response.status_code != 202:
            return f"submission: {response.status_code}"
        job_id, deadline = response.json()["id"], time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            response = await self._send("GET", f"/jobs/{job_id}?wait=5")
            if response.status_code != 200:
                return f"poll: {response.status_code}"
            if (status := response.json()["status"]) not in ("queued", "running"):
                return str(status)
        return "a job without a terminal state"

    async def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        while True:
            try:
                url = self._random.choice(self._urls) + path
                return await self._http.request(method, url, json=body)
            except httpx.ConnectError:
                self.num_refused += 1
                await asyncio.sleep(RETRY_S)


async def restart_all(cluster: Cluster, seconds: float) -> list[float]:
    """Restart the processes one by one over `seconds`; return the downtime of each."""
    down_s = []
    processes = [*cluster.workers, *cluster.apis]
    for process in processes:
        started = time.monotonic()
        await restart(process)
        down_s.append(time.monotonic() - started)
        await asyncio.sleep(max(0.0, seconds / len(processes) - down_s[-1]))
    return down_s


async def restart(process: ServiceProcess) -> None:
    exit_code = await process.terminate()
    assert exit_code == 0, f"{process.worker_id} exited with {exit_code}"
    process.start()
    await process.wait_until_ready()


async def rolling_restart(
    fleet: Fleet, rate: float, seconds: float, folder: Path, console: Console
) -> bool:
    """Restart all processes under load; return whether no request failed."""
    grace: Settings = {"grace_s": GRACE_S}
    async with running_cluster(folder, fleet, api=grace, worker=grace, has_links=False) as cluster:
        caller = Caller(cluster, draw_requests(1, 30, longest=60), Random(1))
        load = Load(caller.call, rate, Random(2))
        try:
            _, down_s = await asyncio.gather(load.run(seconds), restart_all(cluster, 0.9 * seconds))
        finally:
            await caller.close()
    took = [served.took_s for served in load.served]
    console.print(
        f"{len(took)} requests at {rate:g}/s for {seconds:g} s, {len(down_s)} processes restarted, "
        f"each down for at most {max(down_s):.1f} s; {caller.num_refused} refused connections were "
        f"retried; latency p50 {percentile(took, 0.5):.2f} s, p99 {percentile(took, 0.99):.2f} s"
    )
    console.print(f"failed: {load.failures.total()} {dict(load.failures) or ''}")
    return not load.failures


def main(
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 20.0,
    seconds: Annotated[float, typer.Option(help="Duration of the load.")] = 120.0,
    apis: Annotated[int, typer.Option(min=2, help="Api replicas.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 3,
) -> None:
    """Restart all processes under load; exit with 1 if a request failed."""
    run_command(partial(rolling_restart, Fleet(apis, workers, lease_s=10.0), rate, seconds))


if __name__ == "__main__":
    typer.run(main)
