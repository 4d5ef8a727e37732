"""`make bench-engine`: compare the engine with other engines, and measure where its time goes.

Creates the model and the peers' environments if they are missing. Runs every contender once per
round and prints the medians of the rounds' ratios: a machine's speed drifts between rounds, but
hardly within one.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.peers.comparison import (
    Comparison,
    contenders_table,
    costs_table,
    int8_table,
    phases_table,
)
from bench.peers.contenders import (
    FALCONER,
    FALCONER_INT8,
    FALCONER_TORCH,
    Conditions,
    Contender,
    falconer_contenders,
    openvino_contenders,
    run_to_json,
    transformers_contenders,
    vllm_contenders,
)
from bench.peers.environments import check_call
from bench.workloads import GREEDY, drawn_lengths
from shared.errors import FalconerError

# 122 M parameters in the style of falcon-7b.
SHAPE = ("--hidden-size", "768", "--num-layers", "12", "--num-heads", "12", "--vocab-size", "65024")


def compare(
    folder: Annotated[
        Path, typer.Option(help="Folder for the model, the peers' environments and all figures.")
    ] = Path(".falconer/bench"),
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; by default 122 M random parameters.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Also OpenVINO GenAI and vLLM (5 GB, once).")] = True,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 64,
    max_rows: Annotated[int, typer.Option(min=32, help="Most sequences in a step.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every contender.")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Compare the engine with other engines; figures.json in the folder has all figures."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = model.resolve() if model else ensure_model(folder / "model")
    conditions = Conditions(checkpoint, threads, max_rows, requests, folder / "peers")
    items = drawn_lengths(GREEDY, vocab_size=vocab_size(checkpoint), num_requests=requests)
    comparison = Comparison(items, folder, threads)
    console = Console()
    contenders = gather_contenders(conditions, comparison.failures, with_peers=peers)
    for number in range(1, rounds + 1):
        run_round(comparison, contenders, console, number)
    report(comparison, contenders, console, partial(measure_internals, conditions, folder, rounds))


def ensure_model(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        command = (sys.executable, "-m", "falconer", "model", "random", str(folder))
        check_call(*command, "--like", "7b", *SHAPE)
    return folder


def vocab_size(checkpoint: Path) -> int:
    config = json.loads((checkpoint / "config.json").read_text())
    size: int = config["vocab_size"]
    return size


def gather_contenders(
    conditions: Conditions, failures: dict[str, str], *, with_peers: bool
) -> list[Contender]:
    """Return the contenders that can run here; add the reason for each other one to `failures`."""
    falconer, *variants = falconer_contenders(conditions)
    contenders = [falconer]
    peers = {"OpenVINO GenAI": openvino_contenders, "vLLM": vllm_contenders} if with_peers else {}
    for name, make_contenders in peers.items():
        try:
            contenders += make_contenders(conditions)
        except FalconerError as error:
            failures[name] = error.message
    return [*contenders, *variants, *transformers_contenders(conditions)]


def run_round(
    comparison: Comparison, contenders: list[Contender], console: Console, number: int
) -> None:
    """Run every contender once. Raises FalconerError when Falconer fails: no ratio is left."""
    for contender in contenders:
        comparison.run(contender)
        if FALCONER in comparison.failures:
            raise FalconerError(comparison.failures[FALCONER])
        if runs := comparison.runs.get(contender.name):
            figure = f"{runs[-1].tokens_per_s:.1f} tokens/s"
            console.print(f"round {number}: {contender.name}: {figure}", highlight=False)


def measure_internals(conditions: Conditions, folder: Path, rounds: int) -> Any:
    """Run `bench.engine.internals` in a process of its own and return its figures."""
    json_out = folder / "internals.json"
    command = [sys.executable, "-m", "bench.engine.internals", "--model", str(conditions.model)]
    command += [*conditions.flags, "--requests", str(conditions.num_requests)]
    command += ["--rounds", str(rounds), "--json", str(json_out)]
    return run_to_json(command, json_out, conditions.threads)


def report(
    comparison: Comparison,
    contenders: list[Contender],
    console: Console,
    measure: Callable[[], Any],
) -> None:
    """Print the tables; write figures.json after each, so that a later failure loses none."""
    done = {
        contender.name: contender for contender in contenders if contender.name in comparison.runs
    }
    figures: dict[str, Any] = {
        "contenders": {name: comparison.summary(contender) for name, contender in done.items()},
        "failures": comparison.failures,
    }
    show(contenders_table(figures["contenders"], comparison.failures), figures, comparison, console)
    if {FALCONER_INT8, FALCONER_TORCH} <= done.keys():
        figures["int8"] = judge_int8(comparison, done[FALCONER_INT8])
        show(int8_table(figures["int8"]), figures, comparison, console)
    figures["internals"] = measure()
    show(phases_table(figures["internals"]["step_breakdown"]), figures, comparison, console)
    show(costs_table(figures["internals"]), figures, comparison, console)


def show(table: Table, figures: dict[str, Any], comparison: Comparison, console: Console) -> None:
    console.print(table)
    (comparison.folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def judge_int8(comparison: Comparison, contender: Contender) -> dict[str, float]:
    ratios = comparison.ratios(contender.name, FALCONER_TORCH)
    return {
        "over_torch_float32": statistics.median(ratios),
        "top1_agreement": comparison.agreement(contender),
    }


def main() -> None:
    try:
        typer.run(compare)
    except FalconerError as error:
        print(f"bench.peers.compare: {error.message}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
