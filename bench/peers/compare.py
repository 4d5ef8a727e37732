"""`make bench-engine`: compare the engine with other engines, and measure where its time goes.

Creates the model and the peers' environments if they are missing. Runs every contender once per
round and prints the medians of the rounds' ratios: a machine's speed drifts between rounds, but
hardly within one.
"""

import json
import os
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.figures import record
from bench.peers.comparison import Comparison, reference_outputs
from bench.peers.contenders import Conditions, Contender, Mode, Side, gather_contenders
from bench.peers.environments import check_call
from bench.peers.tables import contenders_table, costs_table, phases_table
from bench.process import run_command, run_to_json
from bench.workloads import GREEDY, WorkItem, drawn_lengths, read_vocab_size
from shared.errors import FalconerError

# 122 M parameters in the style of falcon-7b, bfloat16 as all published Falcons.
SHAPE = ("--hidden-size", "768", "--num-layers", "12", "--num-heads", "12", "--vocab-size", "65024")
ROWS = [64, 32, 1]
SIDES, MODES = list(Side), list(Mode)
MIN_ROWS_OF_INTERNALS = 32


def compare(
    folder: Annotated[
        Path, typer.Option(help="Folder for the model, the peers' environments and all figures.")
    ] = Path(".falconer/bench"),
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; by default 122 M random parameters.")
    ] = None,
    side: Annotated[
        list[Side], typer.Option(help="The engines; GenAI and vLLM take 5 GB, once.")
    ] = SIDES,
    mode: Annotated[list[Mode], typer.Option(help="How they compute.")] = MODES,
    rows: Annotated[list[int], typer.Option(min=1, help="Most sequences in a step.")] = ROWS,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 64,
    internals: Annotated[
        bool, typer.Option(help="Also measure where the time of a step goes.")
    ] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every contender.")] = (
        os.cpu_count() or 1
    ),
) -> None:
    """Compare the engine with other engines; figures.json in the folder has all figures."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = model.resolve() if model else ensure_model(folder / "model-bfloat16")
    items = drawn_lengths(GREEDY, vocab_size=read_vocab_size(checkpoint), num_requests=requests)
    conditions = Conditions(checkpoint, threads, max(rows), requests, folder / "peers")
    reference = find_reference(items, conditions, folder)
    console = Console()
    for num_rows in rows:
        contenders, failures = gather(side, mode, replace(conditions, max_rows=num_rows))
        comparison = Comparison(items, reference, folder, threads, contenders, failures=failures)
        run_rounds(comparison, rounds, console)
        summaries = comparison.summaries()
        figures = {"contenders": summaries, "failures": failures, "rounds": rounds}
        record(folder / "figures.json", ("engine", str(num_rows)), figures)
        console.print(contenders_table(num_rows, summaries, failures))
    if internals and max(rows) >= MIN_ROWS_OF_INTERNALS:
        show_internals(conditions, folder, rounds, console)


def ensure_model(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        command = (sys.executable, "-m", "falconer", "model", "random", str(folder))
        check_call(*command, "--like", "7b", *SHAPE, "--dtype", "bfloat16")
    return folder


def find_reference(items: list[WorkItem], conditions: Conditions, folder: Path) -> list[list[int]]:
    """Return the tokens of Falconer's float32 engine, from an earlier run where there is one."""
    config = conditions.model / "config.json"
    identity = f"{conditions.model} {config.stat().st_mtime_ns} {len(items)}"
    saved = folder / f"reference-{sha256(identity.encode()).hexdigest()[:12]}.json"
    if not saved.is_file():
        [contender] = gather_contenders(Side.FALCONER, [Mode.FLOAT32], conditions)
        outputs = reference_outputs(contender, items, folder, conditions.threads)
        saved.write_text(json.dumps(outputs))
    reference: list[list[int]] = json.loads(saved.read_text())
    return reference


def gather(
    sides: list[Side], modes: list[Mode], conditions: Conditions
) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders that can run here, and the reason for each side that cannot."""
    contenders: list[Contender] = []
    failures: dict[str, str] = {}
    for side in sides:
        try:
            contenders += gather_contenders(side, modes, conditions)
        except FalconerError as error:
            failures[side] = error.message
    return contenders, failures


def run_rounds(comparison: Comparison, rounds: int, console: Console) -> None:
    for number in range(1, rounds + 1):
        for contender in comparison.contenders:
            if run := comparison.run(contender):
                figure = f"{run.tokens_per_s:.1f} tokens/s"
                console.print(f"round {number}: {contender.name}: {figure}", highlight=False)


def show_internals(conditions: Conditions, folder: Path, rounds: int, console: Console) -> None:
    figures = measure_internals(conditions, folder, rounds)
    record(folder / "figures.json", ("internals",), figures)
    console.print(phases_table(figures["step_breakdown"]))
    console.print(costs_table(figures))


def measure_internals(conditions: Conditions, folder: Path, rounds: int) -> Any:
    """Run `bench.engine.internals` in a process of its own and return its figures."""
    json_out = folder / "internals.json"
    command = [sys.executable, "-m", "bench.engine.internals", "--model", str(conditions.model)]
    command += [*conditions.flags, "--requests", str(conditions.num_requests)]
    command += ["--rounds", str(rounds), "--json", str(json_out)]
    return run_to_json(command, json_out, conditions.threads)


if __name__ == "__main__":
    run_command("bench.peers.compare", compare)
