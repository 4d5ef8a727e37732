"""A comparison's figures as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def sides_table(summaries: Mapping[str, Any], failures: Mapping[str, str]) -> Table:
    table = Table("side", "tokens/s", "falconer is faster by", "same outputs", box=None)
    for name, summary in summaries.items():
        least, median, most = summary["falconer_is_faster"]
        table.add_row(
            name,
            f"{summary['tokens_per_s']:.1f}",
            f"{median:.2f}x ({least:.2f} to {most:.2f})",
            f"{summary['same_outputs']:.0%}",
        )
    for name, last_words in failures.items():
        table.add_row(name, "failed", last_words, "")
    return table


def phases_table(anatomy: Mapping[str, Any]) -> Table:
    table = Table("part of a step", "ms", "share", box=None)
    milliseconds = 1000 / anatomy["steps"]
    for phase, seconds in anatomy["phases_s"].items():
        share = seconds / anatomy["engine_s"]
        table.add_row(phase, f"{seconds * milliseconds:.2f}", f"{share:.1%}")
    table.add_row("all", f"{anatomy['engine_s'] * milliseconds:.2f}", "")
    alone = f"{anatomy['dense_alone_s'] * milliseconds:.2f}"
    table.add_row("dense layers and head alone", alone, f"{anatomy['dense_alone_over_engine']:.1%}")
    return table


def int8_table(figures: Mapping[str, float]) -> Table:
    table = Table("int8 weights", "figure", "aim", box=None)
    table.add_row("speed over torch in float32", f"{figures['over_torch_float32']:.2f}x", "≥ 1.5")
    table.add_row("same choice as float32", f"{figures['top1_agreement']:.1%}", "")
    return table


def costs_table(inside: Mapping[str, Any]) -> Table:
    """What must stay small: each figure beside its aim."""
    kwargs, latency = inside["kwargs"], inside["latency"]
    table = Table("measure", "figure", "aim", box=None)
    rows = [
        ("sampling (top_k 50, top_p 0.95) over greedy", kwargs["sampling_over_greedy"], "≤ 1.05"),
        ("32 different kwargs over 32 equal ones", kwargs["different_over_equal"], "≤ 1.10"),
        ("a 1,500-token prompt: usual gap over median", latency["usual_over_median"], "≤ 2"),
        ("a 1,500-token prompt: worst step over median", latency["step_max_over_median"], "≤ 2"),
        ("a 1,500-token prompt: worst single gap over median", latency["max_over_median"], ""),
        ("no prompt: worst single gap over median", latency["quiet_max_over_median"], ""),
    ]
    for name, figure, aim in rows:
        table.add_row(name, f"{figure:.3f}", aim)
    return table
