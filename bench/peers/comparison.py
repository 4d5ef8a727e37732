"""Compare contenders: run them in turn, round by round, and compute ratios and equal outputs."""

import random
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.peers.contenders import Contender, ContenderRun, Mode, Side, run_contender
from bench.workloads import WorkItem, representative, write_workload
from shared.errors import FalconerError

CHOICES_PER_REQUEST = 2


@dataclass(slots=True)
class Comparison:
    """Rounds of one workload over all contenders of one number of rows."""

    items: list[WorkItem]
    reference: list[list[int]]  # the tokens of Falconer's float32 engine
    folder: Path  # of the contenders' request and report files
    threads: int
    contenders: list[Contender]
    runs: dict[str, list[ContenderRun]] = field(default_factory=dict)  # by contender, one per round
    failures: dict[str, str] = field(default_factory=dict)  # error message by failed contender

    def run(self, contender: Contender) -> ContenderRun | None:
        """Run a contender once, or skip it if it failed before.

        The first run also computes the tokens of which `summary` gives the agreement.
        """
        if contender.name in self.failures:
            return None
        choices = None if contender.name in self.runs else self.choices()[0]
        try:
            run = run_once(contender, self.sample(contender), choices, self.folder, self.threads)
        except FalconerError as error:
            self.failures[contender.name] = error.message
            self.runs.pop(contender.name, None)
            return None
        self.runs.setdefault(contender.name, []).append(run)
        return run

    def summaries(self) -> dict[str, Any]:
        """Return the figures of each contender that did not fail."""
        return {c.name: self.summary(c) for c in self.contenders if c.name in self.runs}

    def summary(self, contender: Contender) -> dict[str, Any]:
        """Return the speed of each round; `falconer_is_faster` is [min, median, max] by mode."""
        runs = self.runs[contender.name]
        return {
            "side": contender.side,
            "mode": contender.mode,
            "settings": runs[0].variant or contender.settings,
            "requests": contender.num_requests,
            "tokens_per_s": [run.tokens_per_s for run in runs],
            "falconer_is_faster": self.ratios(contender),
            "agreement": top1_agreement(runs[0].choices, self.choices()[1]),
            "same_outputs": self.same_outputs(contender),
        }

    def ratios(self, contender: Contender) -> dict[str, list[float]]:
        """Return Falconer's speed in each of its modes over the contender's, over the rounds."""
        by_mode = {c.mode: self.runs.get(c.name) for c in self.contenders if is_falconer(c)}
        ratios = {}
        for mode, ours in by_mode.items():
            if ours is not None:
                pairs = zip(ours, self.runs[contender.name], strict=True)
                values = [run.tokens_per_s / other.tokens_per_s for run, other in pairs]
                ratios[mode.value] = [min(values), statistics.median(values), max(values)]
        return ratios

    def same_outputs(self, contender: Contender) -> float:
        """Return the share of requests whose tokens all equal float32's, in the first round."""
        answers = zip(self.items, self.reference, strict=True)
        expected = {tuple(item.prompt_ids or ()): output for item, output in answers}
        sample = self.sample(contender)
        outputs = zip(sample, self.runs[contender.name][0].outputs, strict=True)
        same = [expected[tuple(item.prompt_ids or ())] == output for item, output in outputs]
        return statistics.mean(same)

    def sample(self, contender: Contender) -> list[WorkItem]:
        return representative(self.items, contender.num_requests)

    def choices(self) -> tuple[list[WorkItem], list[int]]:
        return choices_to_repeat(self.items, self.reference, per_request=CHOICES_PER_REQUEST)


def is_falconer(contender: Contender) -> bool:
    return contender.side is Side.FALCONER


def reference_outputs(
    contender: Contender, items: list[WorkItem], folder: Path, threads: int
) -> list[list[int]]:
    """Return the tokens of Falconer's float32 engine. Raises FalconerError if it fails."""
    assert is_falconer(contender) and contender.mode is Mode.FLOAT32
    return run_once(contender, items, None, folder, threads).outputs


def run_once(
    contender: Contender,
    items: list[WorkItem],
    choices: list[WorkItem] | None,
    folder: Path,
    threads: int,
) -> ContenderRun:
    requests, repeated = folder / "requests.jsonl", folder / "choices.jsonl"
    write_workload(requests, items)
    if choices is not None:
        write_workload(repeated, choices)
    return run_contender(
        contender, requests, repeated if choices else None, folder / "report.json", threads
    )


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
