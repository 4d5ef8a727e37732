"""One engine, looked at from inside: where a step's time goes, what parameters and arrivals cost.

`python -m bench.inside --model DIR --json OUT`; `bench.compare` runs it as one of its parts.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bench.anatomy import Anatomy
from bench.dense import dense_layers
from bench.engine import EngineBench, to_request
from bench.kwargs_cost import measure_kwargs_cost
from bench.latency import measure_latency
from bench.mixes import GREEDY, drawn_lengths
from bench.openvino_operators import counters_switched_on


def look_inside(
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")],
    json_out: Annotated[Path, typer.Option("--json", help="Where to write the figures.")],
    requests: Annotated[int, typer.Option(min=1, help="Of the workload that is dissected.")] = 64,
    max_rows: Annotated[int, typer.Option(min=32, help="Most rows in one step.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a step.")] = 2,
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Of which the medians are told.")] = 3,
) -> None:
    bench = EngineBench(
        model, max_rows=max_rows, threads=threads, executor=executor, dtype="float32", device="cpu"
    )
    with counters_switched_on():
        engine, encoder = bench.load()
    vocab_size = engine.model_config.vocab_size
    translate = partial(to_request, encoder)
    items = drawn_lengths(GREEDY, vocab_size=vocab_size, num_requests=requests)
    anatomy = Anatomy(engine, dense_layers(engine._runner, threads=threads))
    figures = {
        "anatomy": anatomy.dissect([translate(str(i), item) for i, item in enumerate(items)]),
        "kwargs": measure_kwargs_cost(engine, translate, vocab_size=vocab_size, rounds=rounds),
        "latency": measure_latency(engine, vocab_size=vocab_size, rounds=rounds),
    }
    json_out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(look_inside)
