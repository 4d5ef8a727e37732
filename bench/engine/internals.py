"""Measure one engine from inside: its step breakdown, and the cost of parameters and arrivals.

`python -m bench.engine.internals --model DIR --json OUT`; `bench.peers.compare` runs this command.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.engine.dense_floor import dense_layers
from bench.engine.engine_bench import EngineBench, settings_of, to_request
from bench.engine.latency import measure_latency
from bench.engine.step_breakdown import measure_steps
from bench.workloads import DIFFERENT, GREEDY, SAMPLING, WorkItem, drawn_lengths, equal_lengths
from worker.engine import Engine, Request, TokenOutput

ToRequest = Callable[[str, WorkItem], Request]

ROWS: dict[str, tuple[dict[str, Any], ...]] = {
    "greedy": (GREEDY,) * len(DIFFERENT),
    "sampling": (SAMPLING,) * len(DIFFERENT),
    "different": DIFFERENT,
}


def measure_internals(
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")],
    json_out: Annotated[Path, typer.Option("--json", help="Where to write the figures.")],
    requests: Annotated[int, typer.Option(min=1, help="Requests of the step breakdown.")] = 64,
    max_rows: Annotated[int, typer.Option(min=32, help="Most rows in one step.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a step.")] = 2,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Figures are medians over the rounds.")] = 3,
) -> None:
    bench = EngineBench(
        model, max_rows=max_rows, threads=threads, executor=executor, dtype=dtype, device="cpu"
    )
    engine, encoder = bench.load()
    vocab_size = engine.model_config.vocab_size
    make = partial(to_request, encoder)
    items = drawn_lengths(GREEDY, vocab_size=vocab_size, num_requests=requests)
    prepared = [make(str(number), item) for number, item in enumerate(items)]
    figures = {
        "variant": settings_of(engine)["variant"],
        "step_breakdown": measure_steps(engine, dense_layers(engine, threads=threads), prepared),
        "parameters": measure_parameter_cost(engine, make, vocab_size=vocab_size, rounds=rounds),
        "latency": measure_latency(engine, vocab_size=vocab_size, rounds=rounds),
    }
    json_out.write_text(json.dumps(figures, indent=1) + "\n")


def measure_parameter_cost(
    engine: Engine, to_request: ToRequest, *, vocab_size: int, rounds: int
) -> dict[str, Any]:
    """Return the median seconds of a decoding step of 32 rows by kind, and their median ratios.

    The kinds alternate, so that a machine whose speed drifts affects all of them alike.
    """
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
    """Return the median seconds of the steps in which each of the requests got a token."""
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


if __name__ == "__main__":
    typer.run(measure_internals)
