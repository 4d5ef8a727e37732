"""`make bench-engine`: the engine beside its alternatives, in turn, and where its time goes.

Makes the model and the peers' environments if need be, runs every side once a round, and prints
medians of the rounds' ratios: a machine's speed drifts, a ratio within one round does not.
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

from bench.comparison import Comparison
from bench.comparison_tables import costs_table, int8_table, phases_table, sides_table
from bench.mixes import GREEDY, drawn_lengths
from bench.peers.environments import check_call
from bench.sides import (
    FALCONER,
    FALCONER_INT8,
    FALCONER_TORCH,
    Conditions,
    Side,
    falconer_sides,
    openvino_sides,
    run_to_json,
    transformers_sides,
    vllm_sides,
)
from shared.errors import FalconerError

# 122 M parameters in falcon-7b's shape.
SHAPE = ("--hidden-size", "768", "--num-layers", "12", "--num-heads", "12", "--vocab-size", "65024")


def compare(
    folder: Annotated[
        Path, typer.Option(help="For the model, the peers' environments and all figures.")
    ] = Path(".falconer/bench"),
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; not given: 122 M random parameters.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Also OpenVINO GenAI and vLLM (5 GB, once).")] = True,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Size of the workload.")] = 64,
    max_rows: Annotated[int, typer.Option(min=32, help="Most sequences in a step.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every side.")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Compare the engine with its alternatives; figures.json in the folder holds all of it."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = model.resolve() if model else ensure_model(folder / "model")
    conditions = Conditions(checkpoint, threads, max_rows, requests, folder / "peers")
    items = drawn_lengths(GREEDY, vocab_size=vocab_size(checkpoint), num_requests=requests)
    comparison = Comparison(items, folder, threads)
    console = Console()
    sides = gather_sides(conditions, comparison.failures, with_peers=peers)
    for number in range(1, rounds + 1):
        run_round(comparison, sides, console, number)
    report(comparison, sides, console, partial(look_inside, conditions, folder, rounds))


def ensure_model(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        command = (sys.executable, "-m", "falconer", "model", "random", str(folder))
        check_call(*command, "--like", "7b", *SHAPE)
    return folder


def vocab_size(checkpoint: Path) -> int:
    config = json.loads((checkpoint / "config.json").read_text())
    size: int = config["vocab_size"]
    return size


def gather_sides(
    conditions: Conditions, failures: dict[str, str], *, with_peers: bool
) -> list[Side]:
    """All sides that can be had; of the others `failures` tells why not."""
    falconer, *variants = falconer_sides(conditions)
    sides = [falconer]
    peers = {"OpenVINO GenAI": openvino_sides, "vLLM": vllm_sides} if with_peers else {}
    for name, make_sides in peers.items():
        try:
            sides += make_sides(conditions)
        except FalconerError as error:
            failures[name] = error.message
    return [*sides, *variants, *transformers_sides(conditions)]


def run_round(comparison: Comparison, sides: list[Side], console: Console, number: int) -> None:
    """Raises FalconerError when Falconer itself fails: there is nothing to compare with."""
    for side in sides:
        comparison.run(side)
        if FALCONER in comparison.failures:
            raise FalconerError(comparison.failures[FALCONER])
        if runs := comparison.runs.get(side.name):
            figure = f"{runs[-1].tokens_per_s:.1f} tokens/s"
            console.print(f"round {number}: {side.name}: {figure}", highlight=False)


def look_inside(conditions: Conditions, folder: Path, rounds: int) -> Any:
    """The figures of `bench/inside.py`, measured in a process of their own."""
    json_out = folder / "inside.json"
    command = [sys.executable, "-m", "bench.inside", "--model", str(conditions.model)]
    command += [*conditions.flags, "--requests", str(conditions.num_requests)]
    command += ["--rounds", str(rounds), "--json", str(json_out)]
    return run_to_json(command, json_out, conditions.threads)


def report(
    comparison: Comparison, sides: list[Side], console: Console, inside: Callable[[], Any]
) -> None:
    """Print the tables; write to figures.json after each, so that a later failure loses none."""
    done = {side.name: side for side in sides if side.name in comparison.runs}
    figures: dict[str, Any] = {
        "sides": {name: comparison.summary(side) for name, side in done.items()},
        "failures": comparison.failures,
    }
    show(sides_table(figures["sides"], comparison.failures), figures, comparison, console)
    if {FALCONER_INT8, FALCONER_TORCH} <= done.keys():
        figures["int8"] = judge_int8(comparison, done[FALCONER_INT8])
        show(int8_table(figures["int8"]), figures, comparison, console)
    figures["inside"] = inside()
    show(phases_table(figures["inside"]["anatomy"]), figures, comparison, console)
    show(costs_table(figures["inside"]), figures, comparison, console)


def show(table: Table, figures: dict[str, Any], comparison: Comparison, console: Console) -> None:
    console.print(table)
    (comparison.folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def judge_int8(comparison: Comparison, side: Side) -> dict[str, float]:
    ratios = comparison.ratios(side.name, FALCONER_TORCH)
    return {
        "over_torch_float32": statistics.median(ratios),
        "top1_agreement": comparison.agreement(side),
    }


def main() -> None:
    try:
        typer.run(compare)
    except FalconerError as error:
        print(f"bench.compare: {error.message}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
