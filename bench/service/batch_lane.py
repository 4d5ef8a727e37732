"""`python -m bench.service.batch_lane`: what a batch costs other requests, and what it gains.

Finds the capacity of `falconer serve` with as many clients as rows. Then requests arrive at half of
it, in turn alone and next to a batch. States how the p95 of their latency changes, and the share of
the capacity that both together reach.
"""

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from bench.figures import record
from bench.peers.compare import ensure_model
from bench.process import run_command
from bench.report import Report
from bench.service.load import WARM_UP, Load, run_load, text_workload
from bench.service.servers import Conditions, Server, falconer_server
from bench.workloads import WorkItem

SHARE = 0.5  # of the capacity, by requests that are no batch
LINES = 4000  # of a batch: more than a round answers
FULL_ROWS_S = 5.0  # until a batch fills the idle rows
PATIENCE_S = 60.0
HTTP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of the requests that are no batch."""

    latency_p95_s: float
    ttft_p95_s: float
    inter_token_p95_s: float
    tokens_per_s: float  # with the tokens of the batch

    @classmethod
    def of(cls, report: Report, batch_tokens: float = 0.0) -> "Figures":
        """Return the figures; `batch_tokens` counts the tokens of the batch per second."""
        summary = report.summary()
        p95 = {name: summary[name]["p95"] for name in ("latency_s", "ttft_s", "inter_token_s")}
        total = summary["tokens_per_s"] + batch_tokens
        return cls(p95["latency_s"], p95["ttft_s"], p95["inter_token_s"], total)


def measure(
    folder: Annotated[Path, typer.Option(help="Folder for the model and the figures.")] = Path(
        ".falconer/bench"
    ),
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; by default 122 M random parameters.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=2, help="Most sequences in a step.")] = 16,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of a run, about.")] = 25.0,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Compare the latency of requests with and without a batch next to them."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = model.resolve() if model else ensure_model(folder / "model-bfloat16")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    conditions = Conditions(checkpoint, os.cpu_count() or 1, max_rows, folder / "peers")
    with falconer_server(conditions) as server:
        items = text_workload(tokenizer, 3 * max_rows)
        run_load(server, items, Load("warm-up", WARM_UP, clients=WARM_UP))
        capacity = run_load(server, varied(items, 0), Load("capacity", len(items), max_rows))
        rate = SHARE * len(items) / capacity.wall_s
        items = text_workload(tokenizer, max(20, round(seconds * rate)), seed=1)
        alone, together = [], []
        for number in range(rounds):
            load = Load(f"round {number + 1}", len(items), rate=rate)
            alone.append(Figures.of(run_load(server, varied(items, 2 * number + 1), load)))
            together.append(next_to_batch(server, varied(items, 2 * number + 2), load))
    total = capacity.summary()["tokens_per_s"]
    Console().print(table_of(alone, together, total))
    result = {"capacity": total, "alone": as_json(alone), "together": as_json(together)}
    record(folder / "figures.json", ("batch_lane",), result)


def varied(items: list[WorkItem], run: int) -> list[WorkItem]:
    """Return requests of the same lengths whose prompts share no prefix with another run's."""
    return [replace(item, prompt=f"{run} {item.prompt}") for item in items]


def next_to_batch(server: Server, items: list[WorkItem], load: Load) -> Figures:
    """Return the figures of a run next to a batch that has filled the idle rows."""
    with running_batch(server, items) as progress:
        time.sleep(FULL_ROWS_S)
        before, started = progress(), time.perf_counter()
        report = run_load(server, items, load)
        return Figures.of(report, (progress() - before) / (time.perf_counter() - started))


@contextmanager
def running_batch(server: Server, items: list[WorkItem]) -> Iterator[Any]:
    """Run a batch, yield a function that returns its tokens so far, and cancel it at exit."""
    lines = b"".join(batch_line(server, items[i % len(items)], i) for i in range(LINES))
    with httpx.Client(base_url=server.url, timeout=HTTP_TIMEOUT_S, trust_env=False) as client:
        upload = client.post("/v1/files", files={"file": lines}, data={"purpose": "batch"})
        file_id = upload.raise_for_status().json()["id"]
        body = {"input_file_id": file_id, "endpoint": server.route.path}
        created = client.post("/v1/batches", json=body).raise_for_status().json()
        path = f"/v1/batches/{created['id']}"

        def tokens() -> int:
            return int(client.get(path).raise_for_status().json()["usage"]["output_tokens"])

        try:
            yield tokens
        finally:
            client.post(f"{path}/cancel").raise_for_status()
            wait_until_cancelled(client, path)


def batch_line(server: Server, item: WorkItem, number: int) -> bytes:
    """Return a line whose prompt shares no prefix with another one's."""
    body = server.route.body(replace(item, prompt=f"{number} {item.prompt}"))
    del body["stream_options"]
    line = {"custom_id": str(number), "method": "POST", "url": server.route.path, "body": body}
    return json.dumps(line).encode() + b"\n"


def wait_until_cancelled(client: httpx.Client, path: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while client.get(path).json()["status"] != "cancelled" and time.monotonic() < deadline:
        time.sleep(0.2)


def table_of(alone: list[Figures], together: list[Figures], capacity: float) -> Table:
    """Return the medians over the rounds, and their ratios."""
    table = Table("figure", "alone", "next to a batch", "ratio", box=None)
    for name in Figures.__slots__:
        without, with_batch = (
            statistics.median(getattr(figures, name) for figures in runs)
            for runs in (alone, together)
        )
        table.add_row(name, f"{without:.3f}", f"{with_batch:.3f}", f"{with_batch / without:.3f}")
    reached = statistics.median(figures.tokens_per_s for figures in together)
    table.add_row(
        "share of capacity", "", f"{reached:.1f} / {capacity:.1f}", f"{reached / capacity:.3f}"
    )
    return table


def as_json(runs: list[Figures]) -> list[dict[str, float]]:
    return [{name: getattr(figures, name) for name in Figures.__slots__} for figures in runs]


if __name__ == "__main__":
    run_command("bench.service.batch_lane", measure)
