"""`make bench`: measure what the service costs in addition to its engine, on this machine.

Measures the latency that the path HTTP → queue → worker → reply → HTTP adds to a request, how well
concurrent calls share steps, and the cost of a job in Redis with one worker and with eight.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis
from rich.console import Console
from rich.table import Table

from bench.engine.engine_bench import EngineBench, to_request
from bench.engine.replay import replay
from bench.report import percentiles
from bench.service.local_service import LocalService, local_service
from bench.service.service_bench import ServiceBench
from bench.workloads import WorkItem
from shared.errors import FalconerError

NUM_PAIRS = 300
WARM_UP = 20
IDLE_S = 5.0
PROMPTS = ("Once upon a time", "What is a falcon?", "The lighthouse keeper", "Hello")


def workload(num_requests: int, max_new_tokens: int) -> list[WorkItem]:
    """Return short greedy requests, whose time is mostly spent outside the model."""
    kwargs = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": None}
    return [
        WorkItem(prompt=PROMPTS[i % len(PROMPTS)], generate_kwargs=kwargs)
        for i in range(num_requests)
    ]


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of one request, run by a local engine and by the service."""

    alone_s: float
    over_http_s: float
    run_s: float  # part of `over_http_s` in the engine, from the job record

    @property
    def added_ms(self) -> float:
        return 1000 * (self.over_http_s - self.alone_s)

    @property
    def outside_ms(self) -> float:
        return 1000 * (self.over_http_s - self.run_s)


def measure_pairs(service: LocalService, max_new_tokens: int) -> list[Pair]:
    """Send each request to a local engine and to the service in turn.

    The machine's speed drifts, and an engine in a tight loop with warm caches is faster than an
    engine that waited for a request. Alternating affects both alike.
    """
    engine, encoder = EngineBench("tiny", device="cpu").load()
    address = urlsplit(service.url)
    connection = HTTPConnection(address.hostname or "", address.port)

    def measure(number: int, item: WorkItem) -> Pair:
        request = to_request(encoder, str(number), item)
        body = {"prompt": item.prompt, "generate_kwargs": item.generate_kwargs}
        alone_s = timed(lambda: replay(engine, [request], 1))
        started = time.perf_counter()
        answer = call(connection, "POST", "/chat", body)
        over_http_s = time.perf_counter() - started
        record = call(connection, "GET", f"/jobs/{answer['id']}")
        return Pair(alone_s, over_http_s, record["run_ms"] / 1000)

    items = workload(NUM_PAIRS + WARM_UP, max_new_tokens)
    return [measure(number, item) for number, item in enumerate(items)][WARM_UP:]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def call(connection: HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    """Send one call with the standard library, whose client has little overhead."""
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise FalconerError(f"{response.status}: {answer.decode()}")
    return json.loads(answer)


@dataclass(frozen=True, slots=True)
class RedisCost:
    """Commands, with those inside scripts, and seconds of the server's CPU time."""

    commands: float
    cpu_s: float

    @classmethod
    def read(cls, client: redis.Redis) -> "RedisCost":
        info: Any = client.info()
        cpu_s = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        return cls(float(info["total_commands_processed"]), cpu_s)

    def since(self, earlier: "RedisCost") -> "RedisCost":
        return RedisCost(self.commands - earlier.commands, self.cpu_s - earlier.cpu_s)

    def scaled(self, factor: float) -> "RedisCost":
        return RedisCost(self.commands * factor, self.cpu_s * factor)


def redis_cost(service: LocalService, num_jobs: int = 200) -> tuple[RedisCost, RedisCost]:
    """Return the cost of a second without jobs, and the additional cost of each job."""
    with redis.Redis.from_url(service.redis_url) as client:
        start = RedisCost.read(client)
        time.sleep(IDLE_S)
        idle = RedisCost.read(client)
        seconds = timed(lambda: call_eight_at_a_time(service, workload(num_jobs, 16)))
        busy = RedisCost.read(client)
    per_second = idle.since(start).scaled(1 / IDLE_S)
    of_jobs = busy.since(idle).since(per_second.scaled(seconds))
    return per_second, of_jobs.scaled(1 / num_jobs)


def call_eight_at_a_time(service: LocalService, items: list[WorkItem]) -> None:
    report = ServiceBench(service.url, 8, None, False, 120).run(items)
    if failed := [request.error for request in report.requests if request.error]:
        raise FalconerError(f"{len(failed)} calls failed: {failed[0]}")


async def rows_per_step(service: LocalService, num_calls: int = 32) -> float:
    """Return the mean rows per step from the job records of concurrent calls."""
    body = {"prompt": PROMPTS[0], "generate_kwargs": {"max_new_tokens": 64, "eos_token_id": None}}
    async with httpx.AsyncClient(base_url=service.url, timeout=120, trust_env=False) as client:
        answers = await asyncio.gather(*(client.post("/chat", json=body) for _ in range(num_calls)))
        records = [(await client.get(f"/jobs/{a.json()['id']}")).json() for a in answers]
    return statistics.mean(float(record["batch"]["mean_rows"]) for record in records)


def main() -> None:
    table = Table("measure", "figure", box=None)
    with local_service(workers=1) as service:
        for tokens in (1, 16):
            pairs = measure_pairs(service, tokens)
            called = f"one call at a time, {tokens} tokens"
            table.add_row(f"added latency, {called}", _in_ms([p.added_ms for p in pairs]))
            table.add_row(f"outside the engine, {called}", _in_ms([p.outside_ms for p in pairs]))
        rows = asyncio.run(rows_per_step(service))
        table.add_row("mean rows per step, 32 concurrent calls", f"{rows:.1f}")
        table.add_row("Redis, 1 worker", _describe(redis_cost(service)))
    with local_service(workers=8) as service:
        table.add_row("Redis, 8 workers", _describe(redis_cost(service)))
    Console().print(table)


def _in_ms(values: list[float]) -> str:
    figures = percentiles(values) or {}
    return "  ".join(f"{name} {value:.2f} ms" for name, value in figures.items())


def _describe(cost: tuple[RedisCost, RedisCost]) -> str:
    idle, job = cost
    return (
        f"{job.commands:.1f} commands, {1e6 * job.cpu_s:.0f} µs of its CPU per job; "
        f"idle {idle.commands:.0f} commands/s, {100 * idle.cpu_s:.1f} % of a core"
    )


if __name__ == "__main__":
    main()
