"""`make bench`: what the service costs on top of its engine, on this machine.

Three questions, each answered by a real service: how much latency the path HTTP → queue → worker
→ reply → HTTP adds to one request, how well concurrent calls share steps, and what a job costs
Redis, with one worker and with eight.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import redis
from rich.console import Console
from rich.table import Table

from bench.engine import EngineBench, replay, to_request
from bench.local_service import LocalService, local_service
from bench.report import percentiles
from bench.service import ServiceBench
from bench.workload import WorkItem
from shared.errors import FalconerError

NUM_PAIRS = 300
WARM_UP = 20
PROMPTS = ("Once upon a time", "What is a falcon?", "The lighthouse keeper", "Hello")


def workload(num_requests: int, max_new_tokens: int) -> list[WorkItem]:
    """Short greedy answers, so that the path weighs more than the model."""
    kwargs = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": None}
    return [
        WorkItem(prompt=PROMPTS[i % len(PROMPTS)], generate_kwargs=kwargs)
        for i in range(num_requests)
    ]


def added_latency_ms(service: LocalService, max_new_tokens: int) -> list[float]:
    """Service latency less engine latency, pair by pair: the same request to both in turn.

    In turn, because the machine's speed drifts and because an engine that is called in a tight
    loop, with warm caches, is faster than one that has just been waiting for a request.
    """
    engine, encoder = EngineBench("tiny", 1, 32, "auto", "cpu").load()
    address = urlsplit(service.url)
    connection = HTTPConnection(address.hostname or "", address.port)

    def call_both(number: int, item: WorkItem) -> float:
        request = to_request(encoder, str(number), item)
        alone = timed(lambda: replay(engine, [request], 1))
        return timed(lambda: post(connection, item)) - alone

    items = workload(NUM_PAIRS + WARM_UP, max_new_tokens)
    added = [call_both(number, item) for number, item in enumerate(items)]
    return [1000 * seconds for seconds in added[WARM_UP:]]


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def post(connection: HTTPConnection, item: WorkItem) -> None:
    """One synchronous call, by the standard library: the client must not weigh."""
    body = json.dumps({"prompt": item.prompt, "generate_kwargs": item.generate_kwargs})
    connection.request("POST", "/chat", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise FalconerError(f"{response.status}: {answer.decode()}")


@dataclass(frozen=True, slots=True)
class RedisCost:
    """Commands count those inside scripts; time is the server's CPU time."""

    commands_per_job: float
    cpu_us_per_job: float


def redis_cost(service: LocalService, num_jobs: int = 200) -> RedisCost:
    """What a job costs Redis while calls come eight at a time, everybody's polling included."""
    items = workload(num_jobs, 16)
    with redis.Redis.from_url(service.redis_url) as client:
        before = client.info()
        ServiceBench(service.url, 8, None, False, 120).run(items)
        after = client.info()

    def per_job(*names: str) -> float:
        return sum(float(after[name]) - float(before[name]) for name in names) / num_jobs

    cpu_s = per_job("used_cpu_user", "used_cpu_sys")
    return RedisCost(per_job("total_commands_processed"), 1e6 * cpu_s)


async def rows_per_step(service: LocalService, num_calls: int = 32) -> float:
    """Mean rows per step in the job records of concurrent calls."""
    body = {"prompt": PROMPTS[0], "generate_kwargs": {"max_new_tokens": 64, "eos_token_id": None}}
    async with httpx.AsyncClient(base_url=service.url, timeout=120, trust_env=False) as client:
        answers = await asyncio.gather(*(client.post("/chat", json=body) for _ in range(num_calls)))
        records = [(await client.get(f"/jobs/{a.json()['id']}")).json() for a in answers]
    return statistics.mean(float(record["batch"]["mean_rows"]) for record in records)


def main() -> None:
    table = Table("measure", "figure", box=None)
    with local_service(workers=1) as service:
        for tokens in (1, 16):
            added = percentiles(added_latency_ms(service, tokens)) or {}
            figures = "  ".join(f"{name} {value:.2f} ms" for name, value in added.items())
            table.add_row(f"added latency, one call at a time, {tokens} tokens", figures)
        rows = asyncio.run(rows_per_step(service))
        table.add_row("mean rows per step, 32 concurrent calls", f"{rows:.1f}")
        table.add_row("Redis per job, 1 worker", _describe(redis_cost(service)))
    with local_service(workers=8) as service:
        table.add_row("Redis per job, 8 workers", _describe(redis_cost(service)))
    Console().print(table)


def _describe(cost: RedisCost) -> str:
    return f"{cost.commands_per_job:.1f} commands, {cost.cpu_us_per_job:.0f} µs of Redis CPU time"


if __name__ == "__main__":
    main()
