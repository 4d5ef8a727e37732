"""`python -m bench.service.openai_overhead`: compare `/v1/chat/completions` with `/chat`.

Sends the same conversations to both routes in turn, and states by how much the medians differ.
"""

import statistics
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.service.local_service import local_service
from bench.service.overhead import PROMPTS, call
from shared.errors import FalconerError

ROUNDS = 7
CALLS = 200  # of each route in a round
WARM_UP = 40
NUM_NEW = 3  # tokens


@dataclass(frozen=True, slots=True)
class Medians:
    """Milliseconds of a call, by route."""

    chat: float
    openai: float

    @property
    def added(self) -> float:
        return self.openai - self.chat


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


def measure_round(connection: HTTPConnection, num_calls: int) -> Medians:
    """Send both requests in turn; the first of each pair alternates too."""
    times: dict[str, list[float]] = {"/chat": [], "/v1/chat/completions": []}
    for number in range(num_calls):
        requests = list(zip(times, bodies(PROMPTS[number % len(PROMPTS)]), strict=True))
        texts = set()
        for path, body in requests if number % 2 else reversed(requests):
            elapsed_ms, text = timed_call(connection, path, body)
            times[path].append(elapsed_ms)
            texts.add(text)
        if len(texts) != 1:
            raise FalconerError(f"the routes have different texts: {texts}")
    return Medians(*(statistics.median(each) for each in times.values()))


def main() -> None:
    with local_service() as service:
        address = urlsplit(service.url)
        connection = HTTPConnection(address.hostname or "", address.port)
        measure_round(connection, WARM_UP)
        rounds = [measure_round(connection, CALLS) for _ in range(ROUNDS)]
    table = Table("round", "/chat, ms", "/v1/chat/completions, ms", "added, ms", title="Medians")
    for number, medians in enumerate(rounds, 1):
        row = (medians.chat, medians.openai, medians.added)
        table.add_row(str(number), *(f"{value:.2f}" for value in row))
    Console().print(table)
    added = [medians.added for medians in rounds]
    print(f"added: {statistics.median(added):.2f} ms ({min(added):.2f} to {max(added):.2f})")


if __name__ == "__main__":
    main()
