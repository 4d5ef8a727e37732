"""`python -m bench.service.compare`: `falconer serve` and vLLM's OpenAI server under equal load.

Each round starts every server in turn, sends the same requests in closed loops and at rates below
and above the capacity found, and runs the same requests through Falconer's engine alone.
"""

import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from bench.figures import record
from bench.peers.compare import ensure_model
from bench.process import run_command, run_to_json
from bench.service.load import apply_loads, text_workload
from bench.service.servers import Conditions, Server, falconer_server, vllm_server
from bench.workloads import WorkItem, write_workload

CLIENTS = [1, 16, 64]
SHARES = [0.5, 0.8, 1.1]


class Side(StrEnum):
    """The servers, and the engine alone as the limit of ours."""

    FALCONER = "falconer"
    VLLM = "vllm"
    ENGINE = "engine"


SIDES = list(Side)
SERVERS: dict[Side, Callable[[Conditions], AbstractContextManager[Server]]] = {
    Side.FALCONER: falconer_server,
    Side.VLLM: vllm_server,
}


def compare(
    folder: Annotated[
        Path, typer.Option(help="Folder for the model, the peers' environments and all figures.")
    ] = Path(".falconer/bench"),
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; by default 122 M random parameters.")
    ] = None,
    side: Annotated[list[Side], typer.Option(help="What to measure.")] = SIDES,
    clients: Annotated[list[int], typer.Option(min=1, help="Clients of closed loops.")] = CLIENTS,
    share: Annotated[list[float], typer.Option(min=0.01, help="Rates over capacity.")] = SHARES,
    max_rows: Annotated[int, typer.Option(min=1, help="Most sequences in a step.")] = 64,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each load.")] = 128,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a step.")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Compare the servers; figures.json in the folder has all figures."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = model.resolve() if model else ensure_model(folder / "model-bfloat16")
    conditions = Conditions(checkpoint, threads, max_rows, folder / "peers")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    plan = Plan(conditions, text_workload(tokenizer, requests), clients, share, folder)
    console = Console()
    measured: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        console.print(f"round {number}")
        measured.append({one.value: run_side(one, plan, console) for one in side})
        result: dict[str, Any] = {"max_rows": max_rows, "rounds": measured}
        result["summary"] = summarize(measured)
        record(folder / "figures.json", ("service",), result)
    console.print(table_of(result["summary"]))


@dataclass(frozen=True, slots=True)
class Plan:
    """The loads of a round."""

    conditions: Conditions
    items: list[WorkItem]
    clients: list[int]
    shares: list[float]
    folder: Path  # of request and report files


def run_side(side: Side, plan: Plan, console: Console) -> dict[str, Any]:
    """Return the figures of a server, or of the engine, by load."""

    def say(line: str) -> None:
        console.print(f"  {side}, {line}", highlight=False, soft_wrap=True)

    if side is Side.ENGINE:
        return run_engine(plan)
    with SERVERS[side](plan.conditions) as server:
        return apply_loads(server, plan.items, plan.clients, plan.shares, say)


def run_engine(plan: Plan) -> dict[str, Any]:
    """Run the requests through the engine alone, as many at a time as there are clients."""
    requests, json_out = plan.folder / "requests.jsonl", plan.folder / "report.json"
    write_workload(requests, plan.items)
    conditions, clients = plan.conditions, max(plan.clients)
    command = [sys.executable, "-m", "falconer", "bench", "engine", "--device", "cpu"]
    command += ["--model", str(conditions.model), "--max-rows", str(conditions.max_rows)]
    command += ["--threads", str(conditions.threads), "--concurrency", str(clients)]
    command += ["--requests", str(requests), "--json", str(json_out)]
    summary = run_to_json(command, json_out, conditions.threads)["summary"]
    kept = ("tokens_per_s", "ttft_s", "inter_token_s")
    return {f"{clients} clients": {name: summary[name] for name in kept}}


def summarize(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return [min, median, max] over the rounds of every figure, by server, load and figure."""
    return {
        side: {
            load: {
                name: [min(values), statistics.median(values), max(values)]
                for name in flattened(figures)
                if (values := figures_of(rounds, side, load, name))
            }
            for load, figures in loads.items()
        }
        for side, loads in rounds[0].items()
    }


def figures_of(rounds: list[dict[str, Any]], side: str, load: str, name: str) -> list[float]:
    """Return one figure in every round; a closed loop has no rate."""
    values = (flattened(figures[side][load])[name] for figures in rounds)
    return [value for value in values if value is not None]


def flattened(figures: dict[str, Any]) -> dict[str, float | None]:
    """Return figures without nesting: `ttft_s` with its `p50` becomes `ttft_s_p50`."""
    return dict(pairs_of(figures))


def pairs_of(figures: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def table_of(summary: dict[str, Any]) -> Table:
    heads = ("load", "tokens/s", "TTFT p50 / p99", "between tokens p50 / p99", "good")
    table = Table("server", *heads, box=None)
    for side, loads in summary.items():
        for load, figures in loads.items():
            ttft = [figures[f"ttft_s_{p}"][1] for p in ("p50", "p99")]
            gaps = [1000 * figures[f"inter_token_s_{p}"][1] for p in ("p50", "p99")]
            table.add_row(
                side,
                load,
                f"{figures['tokens_per_s'][1]:.0f}",
                f"{ttft[0]:.2f} / {ttft[1]:.2f} s",
                f"{gaps[0]:.0f} / {gaps[1]:.0f} ms",
                f"{figures['good'][1]:.0%}" if "good" in figures else "",
            )
    return table


if __name__ == "__main__":
    run_command("bench.service.compare", compare)
