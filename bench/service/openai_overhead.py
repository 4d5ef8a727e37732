"""`python -m bench.service.openai_overhead`: compare `/v1/chat/completions` with `/chat`.

Sends the same conversations to both routes in turn. The added latency is the median difference of
the two calls of a pair, because the machine's speed drifts more than the routes differ. The added
CPU time of the api hardly depends on what else runs on the machine.
"""

import random
import statistics
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import psutil
from rich.console import Console
from rich.table import Table

from bench.service.local_service import local_service
from bench.service.overhead import PROMPTS, call
from shared.errors import FalconerError

ROUNDS = 6
PAIRS = 150  # of calls in a round
CALLS = 100  # of each route in a row, for the CPU time
WARM_UP = 40
NUM_NEW = 3  # tokens
RESAMPLES = 1000  # of the pairs, for the interval
CHAT, OPENAI = ROUTES = ("/chat", "/v1/chat/completions")


@dataclass(slots=True)
class Figures:
    """Milliseconds of the calls, and of the api's CPU time."""

    calls_ms: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ROUTES})
    cpu_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ROUTES, 0.0))
    num_calls: int = 0  # of each route that `cpu_ms` sums up

    def differences(self) -> list[float]:
        pairs = zip(self.calls_ms[OPENAI], self.calls_ms[CHAT], strict=True)
        return [openai - chat for openai, chat in pairs]


def bodies(prompt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the same greedy request for `/chat` and for `/v1/chat/completions`."""
    messages = [{"role": "user", "content": prompt}]
    kwargs = {"do_sample": False, "max_new_tokens": NUM_NEW, "eos_token_id": None}
    chat = {"messages": messages, "generate_kwargs": kwargs}
    openai = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": NUM_NEW}
    return chat, openai | {"ignore_eos": True}


def timed_call(connection: HTTPConnection, path: str, body: dict[str, Any]) -> tuple[float, str]:
    """Send one call; return its milliseconds and the text of the answer."""
    started = time.perf_counter()
    answer = call(connection, "POST", path, body)
    elapsed_ms = 1000 * (time.perf_counter() - started)
    if "Result" in answer:
        return elapsed_ms, str(answer["Result"])
    return elapsed_ms, str(answer["choices"][0]["message"]["content"])


def measure_pairs(connection: HTTPConnection, num_pairs: int, figures: Figures) -> None:
    """Send both requests in turn; the first of each pair alternates too."""
    for number in range(num_pairs):
        requests = list(zip(ROUTES, bodies(PROMPTS[number % len(PROMPTS)]), strict=True))
        texts = set()
        for path, body in requests if number % 2 else reversed(requests):
            elapsed_ms, text = timed_call(connection, path, body)
            figures.calls_ms[path].append(elapsed_ms)
            texts.add(text)
        if len(texts) != 1:
            raise FalconerError(f"the routes have different texts: {texts}")


def measure_cpu(connection: HTTPConnection, api: psutil.Process, figures: Figures) -> None:
    """Add the api's CPU time of as many calls of each route, one route after the other."""
    for path, body in zip(ROUTES, bodies(PROMPTS[0]), strict=True):
        before = cpu_s(api)
        for _ in range(CALLS):
            timed_call(connection, path, body)
        figures.cpu_ms[path] += 1000 * (cpu_s(api) - before)
    figures.num_calls += CALLS


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, from samples of the values."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def show(figures: Figures) -> None:
    table = Table("route", "p50, ms", "CPU of the api, ms", box=None)
    for path in ROUTES:
        latency = statistics.median(figures.calls_ms[path])
        cpu = figures.cpu_ms[path] / figures.num_calls
        table.add_row(path, f"{latency:.2f}", f"{cpu:.2f}")
    Console().print(table)
    added = figures.differences()
    low, high = interval(added)
    added_cpu = (figures.cpu_ms[OPENAI] - figures.cpu_ms[CHAT]) / figures.num_calls
    print(f"added: p50 {statistics.median(added):.2f} ms ({low:.2f} to {high:.2f}),", end=" ")
    print(f"CPU {added_cpu:.2f} ms")


def main() -> None:
    figures = Figures()
    with local_service() as service:
        address, api = urlsplit(service.url), psutil.Process(service.api_pid)
        connection = HTTPConnection(address.hostname or "", address.port)
        measure_pairs(connection, WARM_UP, Figures())
        for _ in range(ROUNDS):
            measure_pairs(connection, PAIRS, figures)
            measure_cpu(connection, api, figures)
    show(figures)


if __name__ == "__main__":
    main()
