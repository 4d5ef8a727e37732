"""Print the comparison's tables."""

import statistics
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bench.peers.contenders import Mode


def contenders_table(rows: int, summaries: Mapping[str, Any], failures: Mapping[str, str]) -> Table:
    """Show each contender's speed, its agreement, and Falconer's speed in each mode over it."""
    modes = [
        mode for mode in Mode if any(mode in s["falconer_is_faster"] for s in summaries.values())
    ]
    over = [f"falconer {mode} over it" for mode in modes]
    table = Table(f"{rows} rows", "tokens/s", "agreement", "same outputs", *over, box=None)
    for name, summary in summaries.items():
        ratios = summary["falconer_is_faster"]
        table.add_row(
            name,
            f"{statistics.median(summary['tokens_per_s']):.1f}",
            f"{summary['agreement']:.0%}",
            f"{summary['same_outputs']:.0%}",
            *(with_range(ratios[mode]) for mode in modes),
        )
    for name, message in failures.items():
        table.add_row(name, "failed", message)
    return table


def with_range(ratio: list[float]) -> str:
    """Format [min, median, max]."""
    least, median, most = ratio
    return f"{median:.2f} ({least:.2f} to {most:.2f})"


def phases_table(breakdown: Mapping[str, Any]) -> Table:
    table = Table("part of a step", "ms", "share", box=None)
    milliseconds = 1000 / breakdown["steps"]
    for phase, seconds in breakdown["phases_s"].items():
        share = seconds / breakdown["engine_s"]
        table.add_row(phase, f"{seconds * milliseconds:.2f}", f"{share:.1%}")
    table.add_row("all", f"{breakdown['engine_s'] * milliseconds:.2f}", "")
    alone = f"{breakdown['dense_alone_s'] * milliseconds:.2f}"
    table.add_row(
        "dense layers and head alone", alone, f"{breakdown['dense_alone_over_engine']:.1%}"
    )
    return table


def costs_table(internals: Mapping[str, Any]) -> Table:
    """Show each figure that must stay small next to its target."""
    steps, latency = internals["parameters"], internals["latency"]
    table = Table("measure", "figure", "target", box=None)
    rows = [
        (
            "sampling (top_k 50, top_p 0.95) over greedy",
            steps["sampling_over_greedy"],
            "≤ 1.05",
        ),
        ("32 different parameter sets over 32 equal ones", steps["different_over_equal"], "≤ 1.10"),
        ("a 1,500-token prompt: typical gap over median", latency["usual_over_median"], "≤ 2"),
        ("a 1,500-token prompt: worst step over median", latency["step_max_over_median"], "≤ 2"),
        ("a 1,500-token prompt: worst single gap over median", latency["max_over_median"], ""),
        ("no prompt: worst single gap over median", latency["quiet_max_over_median"], ""),
    ]
    for name, figure, aim in rows:
        table.add_row(name, f"{figure:.3f}", aim)
    return table
