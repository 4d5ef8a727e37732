"""`make bench`: what the service costs on top of its engine, on this machine.

Three questions, each answered by a real service: how much latency the path HTTP → queue → worker
→ reply → HTTP adds to one request, how well concurrent calls share steps, and what a job costs
Redis, with one worker and with eight.
"""

import asyncio
import statistics
from dataclasses import dataclass

import httpx
import redis
from rich.console import Console
from rich.table import Table

from bench.engine import EngineBench
from bench.local_service import LocalService, local_service
from bench.report import Report, percentiles
from bench.service import ServiceBench
from bench.workload import WorkItem

NUM_REQUESTS = 300
PROMPTS = ("Once upon a time", "What is a falcon?", "The lighthouse keeper", "Hello")
WARM_UP = 20


def latency_workload() -> list[WorkItem]:
    """Short greedy answers, so that the path weighs more than the model."""
    kwargs = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": None}
    return [
        WorkItem(prompt=PROMPTS[i % len(PROMPTS)], generate_kwargs=kwargs)
        for i in range(NUM_REQUESTS + WARM_UP)
    ]


def latencies_ms(report: Report) -> list[float]:
    return [1000 * r.latency_s for r in report.requests[WARM_UP:] if r.latency_s is not None]


def added_latency(service: LocalService) -> dict[str, float]:
    """Service latency less engine latency, request by request (same prompt), in ms.

    The engine's own share is its median per prompt: its noise must not count for the path.
    """
    items = latency_workload()
    engine = latencies_ms(EngineBench("tiny", 1, 32, "auto", "cpu").run(items))
    over_http = latencies_ms(ServiceBench(service.url, 1, None, False, 60).run(items))
    own = [statistics.median(engine[i :: len(PROMPTS)]) for i in range(len(PROMPTS))]
    added = [total - own[i % len(PROMPTS)] for i, total in enumerate(over_http)]
    return percentiles(added) or {}


@dataclass(frozen=True, slots=True)
class RedisCost:
    """Commands count those inside scripts; time is the server's CPU time."""

    commands_per_job: float
    cpu_us_per_job: float


def redis_cost(service: LocalService, num_jobs: int = 200) -> RedisCost:
    """What a job costs Redis while calls come eight at a time, everybody's polling included."""
    items = latency_workload()[:num_jobs]
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
        added = added_latency(service)
        table.add_row("added latency, one call at a time", _format(added, " ms"))
        rows = asyncio.run(rows_per_step(service))
        table.add_row("mean rows per step, 32 concurrent calls", f"{rows:.1f}")
        table.add_row("Redis per job, 1 worker", _describe(redis_cost(service)))
    with local_service(workers=8) as service:
        table.add_row("Redis per job, 8 workers", _describe(redis_cost(service)))
    Console().print(table)


def _format(figures: dict[str, float], unit: str) -> str:
    return "  ".join(f"{name} {value:.2f}{unit}" for name, value in figures.items())


def _describe(cost: RedisCost) -> str:
    return f"{cost.commands_per_job:.1f} commands, {cost.cpu_us_per_job:.0f} µs of Redis CPU time"


if __name__ == "__main__":
    main()
