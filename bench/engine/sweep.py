"""Search the settings that make the engine fastest, and compare the defaults with them.

`python -m bench.engine.sweep --model DIR` varies one setting at a time around the best so far. Each
run is a process of its own, next to a run with default settings: only ratios of such pairs count.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.figures import record
from bench.process import run_command, run_to_json
from bench.workloads import GREEDY, drawn_lengths, read_vocab_size, write_workload
from shared.errors import FalconerError
from worker.model_loading import find_checkpoint

# The values that are tried, by setting of a worker.
VALUES: dict[str, tuple[int, ...]] = {
    "threads": tuple(n for n in (1, 2, 4, 8, 16, 32) if n <= (os.cpu_count() or 1)),
    "max_rows": (16, 32, 64, 128),
    "max_step_tokens": (256, 512, 1024, 2048),
    "max_chunk_tokens": (16, 32, 64, 128, 256, 512),
}

Settings = dict[str, int]


@dataclass(slots=True)
class Trial:
    """Settings and their speed; no setting stands for the defaults."""

    settings: Settings
    over_default: list[float] = field(default_factory=list)  # ratio of speeds, by pair of runs
    summaries: list[dict[str, Any]] = field(default_factory=list)  # of the runs

    @property
    def ratio(self) -> float:
        return statistics.median(self.over_default)


@dataclass(frozen=True, slots=True)
class Bench:
    """One model and one workload, run with any settings."""

    command: tuple[str, ...]  # without the report's file
    folder: Path
    threads: int

    def run(self, settings: Mapping[str, int]) -> dict[str, Any]:
        """Return the summary of a run. Raises FalconerError."""
        json_out = self.folder / "report.json"
        variables = {f"FALCONER_{name.upper()}": str(value) for name, value in settings.items()}
        command = (*self.command, "--json", str(json_out))
        summary: dict[str, Any] = run_to_json(command, json_out, self.threads, variables)["summary"]
        return summary

    def measure(self, trial: Trial) -> None:
        """Run the defaults and the trial's settings in turn and add their ratio."""
        base, tried = self.run({}), self.run(trial.settings)
        trial.over_default.append(tried["tokens_per_s"] / base["tokens_per_s"])
        trial.summaries.append(tried)


def sweep(
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")],
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="As of a worker.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="Settings to vary; else all.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of the final comparison.")] = 3,
    figures: Annotated[Path | None, typer.Option(help="File of all figures to add to.")] = None,
) -> None:
    """Print the best settings found, and the share of their speed that the defaults have."""
    console = Console()
    command = (sys.executable, "-m", "falconer", "bench", "engine", "--device", "cpu")
    quantized = () if quantization is None else ("--quantization", quantization)
    flags = ("--model", model, "--dtype", dtype, *quantized)
    vocab_size = read_vocab_size(find_checkpoint(model))
    with tempfile.TemporaryDirectory(prefix="falconer-sweep-") as folder:
        workload = Path(folder) / "requests.jsonl"
        items = drawn_lengths(GREEDY, vocab_size=vocab_size, num_requests=requests)
        write_workload(workload, items)
        given = (*command, *flags, "--requests", str(workload))
        bench = Bench(given, Path(folder), os.cpu_count() or 1)
        trials = search(bench, setting or list(VALUES), console)
        best = max(trials, key=lambda trial: trial.ratio)
        final = Trial(best.settings)
        for _ in range(rounds if best.settings else 0):
            bench.measure(final)
        default = bench.run({})
    result = summarize(final, trials, default)
    console.print(table_of(result))
    if figures is not None:
        record(figures, ("sweep", f"{Path(model).name}, {quantization or dtype}"), result)


def search(bench: Bench, names: list[str], console: Console) -> list[Trial]:
    """Return all trials; each setting starts from the best values of the settings before it."""
    trials = [Trial({}, [1.0])]
    for name in names:
        best = max(trials, key=lambda trial: trial.ratio).settings
        for value in VALUES[name]:
            trial = Trial({**best, name: value})
            try:
                bench.measure(trial)
            except FalconerError as error:  # the engine refuses this combination
                console.print(f"{described(trial.settings)}: {error.message}", highlight=False)
                continue
            trials.append(trial)
            console.print(f"{described(trial.settings)}: {trial.ratio:.3f}", highlight=False)
    return trials


def summarize(final: Trial, trials: list[Trial], default: dict[str, Any]) -> dict[str, Any]:
    """Return the best settings, the share of their speed that the defaults have, and all trials."""
    ratios = final.over_default or [1.0]
    return {
        "default": {**default["settings"], **speeds(default)},
        "best": {**final.settings, **(speeds(final.summaries[-1]) if final.summaries else {})},
        "default_over_best": [1 / r for r in (max(ratios), statistics.median(ratios), min(ratios))],
        "trials": [
            {"settings": t.settings, "over_default": t.ratio, **speeds(t.summaries[-1])}
            for t in trials
            if t.summaries
        ],
    }


def speeds(summary: Mapping[str, Any]) -> dict[str, float]:
    return {
        "tokens_per_s": summary["tokens_per_s"],
        "inter_token_p99_s": summary["inter_token_s"]["p99"],
        "ttft_p50_s": summary["ttft_s"]["p50"],
    }


def table_of(result: dict[str, Any]) -> Table:
    table = Table("settings", "over default", "tokens/s", "p99 between tokens", box=None)
    for trial in sorted(result["trials"], key=lambda trial: -trial["over_default"]):
        table.add_row(
            described(trial["settings"]),
            f"{trial['over_default']:.3f}",
            f"{trial['tokens_per_s']:.0f}",
            f"{1000 * trial['inter_token_p99_s']:.0f} ms",
        )
    least, median, most = result["default_over_best"]
    share = f"{median:.3f} ({least:.3f} to {most:.3f})"
    table.add_row("the defaults, over the best of these", share)
    return table


def described(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


if __name__ == "__main__":
    run_command("bench.engine.sweep", sweep)
