"""`falconer bench service`: run a workload over HTTP, as clients do."""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.report import Report, RequestReport
from bench.service.routes import Chat, Route
from bench.workloads import WorkItem
from shared.errors import FalconerError

END_OF_STREAM = "[DONE]"  # of OpenAI's routes


def key_headers() -> dict[str, str]:
    """Return the header with the API key of the environment, if there is one."""
    key = os.environ.get("FALCONER_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


@dataclass(frozen=True, slots=True)
class ServiceBench:
    """Run with `concurrency` calls at a time, or `rate` calls per second with Poisson arrivals."""

    url: str
    concurrency: int | None
    rate: float | None
    stream: bool
    timeout_s: float
    route: Route = field(default_factory=Chat)

    def run(self, items: list[WorkItem]) -> Report:
        if (self.concurrency is None) == (self.rate is None):
            raise FalconerError("exactly one of --concurrency and --rate must be given")
        if any(item.prompt is None for item in items):
            raise FalconerError("every line must have `prompt`: HTTP accepts no token ids")
        return asyncio.run(self._run(items))

    async def _run(self, items: list[WorkItem]) -> Report:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=self.url,
            timeout=self.timeout_s,
            limits=limits,
            headers=key_headers(),
            trust_env=False,
        ) as client:
            started = time.perf_counter()
            calls = [call async for call in self._launch(client, items)]
            requests = await asyncio.gather(*calls)
            return Report(requests, time.perf_counter() - started)

    async def _launch(
        self, client: httpx.AsyncClient, items: Iterable[WorkItem]
    ) -> AsyncIterator["asyncio.Task[RequestReport]"]:
        arrivals = random.Random(0)
        slots = asyncio.Semaphore(self.concurrency or 1_000_000)
        for item in items:
            if self.rate is not None:
                await asyncio.sleep(arrivals.expovariate(self.rate))
            await slots.acquire()
            call = asyncio.create_task(self._call(client, item))
            call.add_done_callback(lambda _: slots.release())
            yield call

    async def _call(self, client: httpx.AsyncClient, item: WorkItem) -> RequestReport:
        report = RequestReport()
        body = self.route.body(item)
        started = time.perf_counter()
        try:
            if self.stream:
                await self._read_stream(client, {**body, "stream": True}, report, started)
            else:
                response = await client.post(self.route.path, json=body)
                report.sequences = _checked(response.status_code, response.json())["sequences"]
        except (httpx.HTTPError, ValueError, FalconerError) as error:  # ValueError: not JSON
            report.error = f"{type(error).__name__}: {error}"
            return report
        report.latency_s = time.perf_counter() - started
        return report

    async def _read_stream(
        self, client: httpx.AsyncClient, body: dict[str, Any], report: RequestReport, started: float
    ) -> None:
        """Read the events of one call with their times until the event with its results."""
        previous: float | None = None
        async with client.stream("POST", self.route.path, json=body) as response:
            if response.status_code != 200:
                _checked(response.status_code, json.loads(await response.aread()))
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == END_OF_STREAM:
                    continue
                now = time.perf_counter()
                if self.route.read(json.loads(data), report):
                    if previous is None:
                        report.ttft_s = now - started
                    else:
                        report.inter_token_s.append(now - previous)
                    previous = now
        if not report.sequences:
            raise FalconerError("the stream ended without a terminal event")


def _checked(status_code: int, body: dict[str, Any]) -> dict[str, Any]:
    if status_code != 200:
        raise FalconerError(f"{status_code}: {body.get('detail') or body.get('error')}")
    return body
