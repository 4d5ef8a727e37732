"""Compare contenders: run them in turn, round by round, and compute ratios and equal outputs."""

import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.peers.contenders import FALCONER, Contender, ContenderRun, run_contender
from bench.workloads import WorkItem, representative, write_workload
from shared.errors import FalconerError

CHOICES_PER_REQUEST = 2


@dataclass(slots=True)
class Comparison:
    """Rounds of one workload over all contenders."""

    items: list[WorkItem]
    folder: Path  # of the contenders' request and report files
    threads: int
    runs: dict[str, list[ContenderRun]] = field(default_factory=dict)  # by contender, one per round
    failures: dict[str, str] = field(default_factory=dict)  # error message by failed contender

    def run(self, contender: Contender) -> None:
        """Run a contender once, or skip it if it failed before."""
        if contender.name in self.failures:
            return
        try:
            run = self._run(contender, self.sample(contender))
        except FalconerError as error:
            self.failures[contender.name] = error.message
            self.runs.pop(contender.name, None)
        else:
            self.runs.setdefault(contender.name, []).append(run)

    def agreement(self, quantized: Contender) -> float:
        """Run `quantized` once more and return the share of tokens it chooses as float32 does."""
        items, expected = choices_to_repeat(
            self.items, self.runs[FALCONER][0].outputs, per_request=CHOICES_PER_REQUEST
        )
        return top1_agreement(self._run(quantized, items).outputs, expected)

    def summary(self, contender: Contender) -> dict[str, Any]:
        """Return medians over the rounds; `falconer_is_faster` is [min, median, max] of ratios."""
        runs = self.runs[contender.name]
        speeds = [run.tokens_per_s for run in runs]
        ratios = self.ratios(FALCONER, contender.name)
        return {
            "tokens_per_s": statistics.median(speeds),
            "falconer_is_faster": [min(ratios), statistics.median(ratios), max(ratios)],
            "same_outputs": self.same_outputs(contender),
        }

    def ratios(self, name: str, base: str) -> list[float]:
        """Return the speed of contender `name` over that of `base`, round by round."""
        pairs = zip(self.runs[name], self.runs[base], strict=True)
        return [run.tokens_per_s / other.tokens_per_s for run, other in pairs]

    def same_outputs(self, contender: Contender) -> float:
        """Return the share of requests whose tokens equal Falconer's, in the first round."""
        answers = zip(self.items, self.runs[FALCONER][0].outputs, strict=True)
        expected = {tuple(item.prompt_ids or ()): output for item, output in answers}
        sample = self.sample(contender)
        outputs = zip(sample, self.runs[contender.name][0].outputs, strict=True)
        same = [expected[tuple(item.prompt_ids or ())] == output for item, output in outputs]
        return statistics.mean(same)

    def sample(self, contender: Contender) -> list[WorkItem]:
        return representative(self.items, contender.num_requests)

    def _run(self, contender: Contender, items: list[WorkItem]) -> ContenderRun:
        requests = self.folder / "requests.jsonl"
        write_workload(requests, items)
        return run_contender(contender, requests, self.folder / "report.json", self.threads)


def choices_to_repeat(
    items: list[WorkItem], outputs: list[list[int]], *, per_request: int, seed: int = 0
) -> tuple[list[WorkItem], list[int]]:
    """Return requests for one token each, at random positions of the outputs, and those tokens.

    Comparing whole outputs would count every token after the first difference as wrong. Here each
    token follows the float32 run's own prefix.
    """
    draw = random.Random(seed)
    positions = [
        (item, output[:cut], output[cut])
        for item, output in zip(items, outputs, strict=True)
        for cut in sorted(draw.sample(range(len(output)), min(per_request, len(output))))
    ]
    requests = [
        replace(
            item,
            prompt_ids=(item.prompt_ids or []) + made,
            generate_kwargs={**item.generate_kwargs, "max_new_tokens": 1},
        )
        for item, made, _ in positions
    ]
    return requests, [expected for *_, expected in positions]


def top1_agreement(outputs: list[list[int]], expected: list[int]) -> float:
    """Return the share of outputs that are the expected token."""
    pairs = zip(outputs, expected, strict=True)
    return sum(output == [token_id] for output, token_id in pairs) / len(expected)


def contenders_table(summaries: Mapping[str, Any], failures: Mapping[str, str]) -> Table:
    table = Table("contender", "tokens/s", "falconer is faster by", "same outputs", box=None)
    for name, summary in summaries.items():
        least, median, most = summary["falconer_is_faster"]
        table.add_row(
            name,
            f"{summary['tokens_per_s']:.1f}",
            f"{median:.2f}x ({least:.2f} to {most:.2f})",
            f"{summary['same_outputs']:.0%}",
        )
    for name, message in failures.items():
        table.add_row(name, "failed", message, "")
    return table


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


def int8_table(figures: Mapping[str, float]) -> Table:
    table = Table("int8 weights", "figure", "target", box=None)
    table.add_row("speed over torch in float32", f"{figures['over_torch_float32']:.2f}x", "≥ 1.5")
    table.add_row("same choice as float32", f"{figures['top1_agreement']:.1%}", "")
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
