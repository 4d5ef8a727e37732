"""Sides run in turn, round by round, and what that says: ratios, equal outputs, agreement.

Knows how to judge runs; `bench/sides.py` knows how to make them.
"""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.agreement import choices_to_repeat, top1_agreement
from bench.mixes import representative
from bench.sides import FALCONER, Side, SideRun, run_side
from bench.workload import WorkItem, write_workload
from shared.errors import FalconerError

CHOICES_PER_REQUEST = 2


@dataclass(slots=True)
class Comparison:
    """`runs` by side, one to a round; a side that failed has its last words in `failures`."""

    items: list[WorkItem]
    folder: Path  # of the files that go to the sides and come from them
    threads: int
    runs: dict[str, list[SideRun]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, side: Side) -> None:
        """Once; a side that failed before is left out."""
        if side.name in self.failures:
            return
        try:
            run = self._run(side, self.sample(side))
        except FalconerError as error:
            self.failures[side.name] = error.message
            self.runs.pop(side.name, None)
        else:
            self.runs.setdefault(side.name, []).append(run)

    def agreement(self, quantized: Side) -> float:
        """Share of float32's choices that the quantized model makes too, in one more run."""
        items, expected = choices_to_repeat(
            self.items, self.runs[FALCONER][0].outputs, per_request=CHOICES_PER_REQUEST
        )
        return top1_agreement(self._run(quantized, items).outputs, expected)

    def summary(self, side: Side) -> dict[str, Any]:
        """Medians over the rounds; `falconer_is_faster` is [least, median, most] of the ratios."""
        runs = self.runs[side.name]
        speeds = [run.tokens_per_s for run in runs]
        ratios = self.ratios(FALCONER, side.name)
        return {
            "tokens_per_s": statistics.median(speeds),
            "falconer_is_faster": [min(ratios), statistics.median(ratios), max(ratios)],
            "same_outputs": self.same_outputs(side),
        }

    def ratios(self, name: str, base: str) -> list[float]:
        """One side's speed over that of another, round by round."""
        pairs = zip(self.runs[name], self.runs[base], strict=True)
        return [run.tokens_per_s / other.tokens_per_s for run, other in pairs]

    def same_outputs(self, side: Side) -> float:
        """Share of the side's requests that ended in Falconer's tokens, in the first round."""
        answers = zip(self.items, self.runs[FALCONER][0].outputs, strict=True)
        expected = {tuple(item.prompt_ids or ()): output for item, output in answers}
        sample = self.sample(side)
        outputs = zip(sample, self.runs[side.name][0].outputs, strict=True)
        same = [expected[tuple(item.prompt_ids or ())] == output for item, output in outputs]
        return statistics.mean(same)

    def sample(self, side: Side) -> list[WorkItem]:
        return representative(self.items, side.num_requests)

    def _run(self, side: Side, items: list[WorkItem]) -> SideRun:
        requests = self.folder / "requests.jsonl"
        write_workload(requests, items)
        return run_side(side, requests, self.folder / "report.json", self.threads)
