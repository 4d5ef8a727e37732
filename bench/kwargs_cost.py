"""What parameters cost: decoding steps of 32 rows, greedy, sampling, and 32 that all differ.

Whole steps are compared, of runs that take turns, so that a drifting machine weighs on all alike.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.mixes import DIFFERENT, GREEDY, SAMPLING, equal_lengths
from bench.workload import WorkItem
from worker.engine import Engine, Request, TokenOutput

ToRequest = Callable[[str, WorkItem], Request]

ROWS: dict[str, tuple[dict[str, Any], ...]] = {
    "greedy": (GREEDY,) * len(DIFFERENT),
    "sampling": (SAMPLING,) * len(DIFFERENT),
    "different": DIFFERENT,
}


def measure_kwargs_cost(
    engine: Engine, to_request: ToRequest, *, vocab_size: int, rounds: int
) -> dict[str, Any]:
    """Median step of each kind in seconds, and medians of the rounds' ratios."""
    steps: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name, rows in ROWS.items():
            items = equal_lengths(rows, vocab_size=vocab_size)
            requests = [to_request(str(number), item) for number, item in enumerate(items)]
            steps[name].append(median_decode_step_s(engine, requests))
    return {
        "step_s": {name: statistics.median(values) for name, values in steps.items()},
        "sampling_over_greedy": _median_ratio(steps["sampling"], steps["greedy"]),
        "different_over_equal": _median_ratio(steps["different"], steps["sampling"]),
    }


def median_decode_step_s(engine: Engine, requests: list[Request]) -> float:
    """Run the requests; seconds of the median step in which every one of them got a token."""
    for request in requests:
        engine.add(request)
    step_s: list[float] = []
    while engine.has_work:
        started = time.perf_counter()
        outputs = engine.step()
        elapsed_s = time.perf_counter() - started
        num_tokens = sum(isinstance(output, TokenOutput) for output in outputs)
        if num_tokens == len(requests):
            step_s.append(elapsed_s)
    # The first of these steps also computed the end of the prompts.
    return statistics.median(step_s[1:])


def _median_ratio(values: list[float], bases: list[float]) -> float:
    return statistics.median(v / base for v, base in zip(values, bases, strict=True))
