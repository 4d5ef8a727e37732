"""Load on one server: closed loops, then arrivals at shares of the capacity that they found."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from bench.report import Report, RequestReport
from bench.service.servers import Server
from bench.service.service_bench import ServiceBench
from bench.workloads import LONGEST, SHORTEST, WorkItem
from shared.errors import FalconerError

MAX_TTFT_S = 2.0  # of a request that counts for the goodput
MAX_INTER_TOKEN_S = 0.2  # its mean
TIMEOUT_S = 300.0
WARM_UP = 4  # requests
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONTEXT = 64  # letters of a first guess per token: more than enough


@dataclass(frozen=True, slots=True)
class Load:
    """How the requests arrive: from `clients` that wait for each answer, or by themselves."""

    name: str
    num_requests: int
    clients: int | None = None
    rate: float | None = None  # requests per second, Poisson


def apply_loads(
    server: Server,
    items: list[WorkItem],
    clients: list[int],
    shares: list[float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the figures of each load; the most clients find the capacity."""
    run_load(server, items, Load("warm-up", WARM_UP, clients=WARM_UP))
    figures: dict[str, Any] = {}
    for load in closed_loops(clients, len(items)):
        figures[load.name] = summarize(run_load(server, items, load), load)
        say(described(load, figures[load.name]))
    capacity = max(figure["requests_per_s"] for figure in figures.values())
    for share in shares:
        load = Load(f"{share:.0%} of capacity", len(items), rate=share * capacity)
        figures[load.name] = summarize(run_load(server, items, load), load)
        say(described(load, figures[load.name]))
    return figures


def closed_loops(clients: list[int], num_requests: int) -> Iterator[Load]:
    """Yield a load per number of clients; few clients send fewer requests."""
    for count in clients:
        name = f"{count} client{'s' if count > 1 else ''}"
        yield Load(name, min(num_requests, max(8, 4 * count)), clients=count)


def run_load(server: Server, items: list[WorkItem], load: Load) -> Report:
    """Send the requests and return their report.

    Raises FalconerError if a request fails or has another number of tokens than it asked for.
    """
    chosen = items[: load.num_requests]
    bench = ServiceBench(server.url, load.clients, load.rate, True, TIMEOUT_S, server.route)
    report = bench.run(chosen)
    for item, request in zip(chosen, report.requests, strict=True):
        if request.error is not None:
            raise FalconerError(f"{load.name}: {request.error}")
        expected = item.generate_kwargs["max_new_tokens"]
        if request.output_tokens != expected:
            raise FalconerError(f"{load.name}: {request.output_tokens} tokens, not {expected}")
    return report


def summarize(report: Report, load: Load) -> dict[str, Any]:
    """Return throughput, latencies and goodput: the requests within both limits, per second."""
    summary = report.summary()
    good = sum(map(is_good, report.requests))
    events = sum(1 + len(request.inter_token_s) for request in report.requests)
    return {
        "requests": len(report.requests),
        "rate": load.rate,
        "requests_per_s": len(report.requests) / report.wall_s,
        "tokens_per_s": summary["tokens_per_s"],
        "prompt_tokens": sum(request.prompt_tokens or 0 for request in report.requests),
        "ttft_s": summary["ttft_s"],
        "inter_token_s": summary["inter_token_s"],
        "tokens_per_event": summary["output_tokens"] / events,
        "goodput_per_s": good / report.wall_s,
        "good": good / len(report.requests),
    }


def is_good(request: RequestReport) -> bool:
    """Return whether the first token and the mean time between tokens are within the limits."""
    if request.ttft_s is None or request.latency_s is None:
        return False
    mean = (request.latency_s - request.ttft_s) / max(1, request.output_tokens - 1)
    return request.ttft_s <= MAX_TTFT_S and mean <= MAX_INTER_TOKEN_S


def described(load: Load, figures: dict[str, Any]) -> str:
    ttft, gap = figures["ttft_s"], figures["inter_token_s"]
    return (
        f"{load.name}: {figures['tokens_per_s']:.0f} tokens/s, TTFT p50 {ttft['p50']:.2f} s p99 "
        f"{ttft['p99']:.2f} s, between tokens p50 {1000 * gap['p50']:.0f} ms p99 "
        f"{1000 * gap['p99']:.0f} ms, {figures['good']:.0%} good"
    )


def text_workload(tokenizer: Tokenizer, num_requests: int, seed: int = 0) -> list[WorkItem]:
    """Return greedy requests whose prompts and outputs have 16 to 256 tokens, as in the engine's.

    Prompts are text, as most clients send them.
    """
    draw = random.Random(seed)
    items = []
    for _ in range(num_requests):
        num_prompt, num_new = (draw.randint(SHORTEST, LONGEST) for _ in range(2))
        prompt = text_of_length(tokenizer, num_prompt, draw)
        kwargs = {"do_sample": False, "max_new_tokens": num_new, "eos_token_id": None}
        items.append(WorkItem(prompt=prompt, generate_kwargs=kwargs))
    return items


def text_of_length(tokenizer: Tokenizer, num_tokens: int, draw: random.Random) -> str:
    """Return random words that the tokenizer splits into exactly so many tokens."""
    while True:
        letters = draw.choices(LETTERS + " ", k=num_tokens * CONTEXT)
        text = "".join(letters)
        end = tokenizer.encode(text).offsets[num_tokens - 1][1]
        if len(tokenizer.encode(text[:end]).ids) == num_tokens:
            return text[:end]
