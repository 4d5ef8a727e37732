"""Measure decoding as a share of the limit that memory sets: every step reads every weight once.

`python -m bench.engine.bandwidth --model DIR` alternates short runs of decoding steps with readings
of the machine's read bandwidth, so that a machine whose speed drifts affects both alike.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.engine.engine_bench import EngineBench
from bench.figures import record
from bench.process import run_command
from bench.workloads import FIRST_WORD_ID
from shared.errors import FalconerError
from worker.engine import Engine, Request, SamplingParams, TokenOutput
from worker.model.config import ModelConfig

READ_BYTES = 2**30
READS = 3  # of which the fastest counts
NUM_PROMPT = 16
ROWS = [1, 8]
BITS: dict[str, float] = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "int8": 8,
    "int8-weight-only": 8,
}
BITS["int4"] = 4 + 40 / 64  # 64 weights share a float32 scale and a zero point of a byte
INT8_HEAD = ("int8", "int4")  # other heads have the dtype of the model


@dataclass(frozen=True, slots=True)
class Share:
    """Decoding of some rows, next to the limit; each figure is a median over the rounds."""

    rows: int
    step_s: float
    tokens_per_s: float
    read_gb_per_s: float  # of the machine, measured between the steps
    limit_tokens_per_s: float  # if reading the weights took all the time
    share_of_limit: float


def measure(
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")],
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="As of a worker.")] = None,
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    rows: Annotated[list[int], typer.Option(min=1, help="Decoding sequences.")] = ROWS,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(min=1)] = 6,
    steps: Annotated[int, typer.Option(min=2, help="Decoding steps in a round.")] = 8,
    figures: Annotated[Path | None, typer.Option(help="File of all figures to add to.")] = None,
) -> None:
    """Print the speed of decoding as a share of the memory limit."""
    started = time.perf_counter()
    bench = EngineBench(
        model,
        max_rows=max(rows),
        dtype=dtype,
        device="cpu",
        executor=executor,
        quantization=quantization,
        threads=threads,
    )
    engine, _ = bench.load()
    loaded_s = time.perf_counter() - started
    read = make_reader(threads)
    shares = [share_of_limit(engine, read, count, rounds, steps) for count in rows]
    result = {
        "model": Path(model).name,
        "format": weight_format(engine),
        "variant": str(variant_of(engine)),
        "bytes_per_step": bytes_per_step(engine),
        "load_s": loaded_s,
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "rows": [asdict(share) for share in shares],
    }
    Console().print(table_of(result))
    if figures is not None:
        record(figures, ("bandwidth", f"{result['model']}, {result['format']}"), result)


def share_of_limit(
    engine: Engine, read: Callable[[], float], rows: int, rounds: int, steps: int
) -> Share:
    """Decode `rows` sequences and compare each round of steps with the bandwidth around it."""
    bursts = decode(engine, rows, rounds, steps)
    before, measured = read(), []
    for step_s in bursts:
        after = read()
        measured.append((step_s, statistics.mean((before, after))))
        before = after
    step_s, bandwidth = (statistics.median(values) for values in zip(*measured, strict=True))
    limits = [bandwidth / bytes_per_step(engine) for _, bandwidth in measured]
    return Share(
        rows=rows,
        step_s=step_s,
        tokens_per_s=rows / step_s,
        read_gb_per_s=bandwidth / 1e9,
        limit_tokens_per_s=rows * statistics.median(limits),
        share_of_limit=statistics.median(
            1 / (step_s * limit) for (step_s, _), limit in zip(measured, limits, strict=True)
        ),
    )


def decode(engine: Engine, rows: int, rounds: int, steps: int) -> Iterator[float]:
    """Yield the median seconds of a step of each round, with all rows decoding."""
    params = SamplingParams(max_new_tokens=(rounds + 1) * steps + rows, eos_token_ids=(), seed=0)
    for row in range(rows):
        prompt = [FIRST_WORD_ID + row] * NUM_PROMPT
        engine.add(Request(request_id=str(row), prompt_token_ids=prompt, params=params))
    while timed_step(engine)[1] < rows:
        pass
    timed_step(engine)  # the first step of this size
    for _ in range(rounds):
        yield statistics.median(timed_step(engine)[0] for _ in range(steps))
    for row in range(rows):
        engine.abort(str(row))
    while engine.has_work:
        engine.step()


def timed_step(engine: Engine) -> tuple[float, int]:
    """Return the seconds of a step and the number of sequences that got a token."""
    started = time.perf_counter()
    outputs = engine.step()
    elapsed_s = time.perf_counter() - started
    return elapsed_s, sum(isinstance(output, TokenOutput) for output in outputs)


def make_reader(threads: int) -> Callable[[], float]:
    """Return a function that measures the read bandwidth of `threads` threads in bytes per second.

    Each thread sums its own part. The threads end with each call, so that they do not disturb the
    engine's.
    """
    values = torch.ones(READ_BYTES // 4)
    parts = values.chunk(threads)

    def sum_alone(part: torch.Tensor) -> None:
        torch.set_num_threads(1)
        part.sum()

    def read() -> float:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(sum_alone, parts))  # starts the threads
            seconds = []
            for _ in range(READS):
                started = time.perf_counter()
                list(pool.map(sum_alone, parts))
                seconds.append(time.perf_counter() - started)
        return values.nbytes / min(seconds)

    return read


def bytes_per_step(engine: Engine) -> float:
    """Return the bytes of all dense layers and the head, which each step reads once."""
    variant = variant_of(engine)
    dtype = str(variant.dtype).removeprefix("torch.")
    body, head = num_weights(engine.model_config)
    head_format = "int8" if weight_format(engine) in INT8_HEAD else dtype
    return (body * BITS[weight_format(engine)] + head * BITS[head_format]) / 8


def num_weights(config: ModelConfig) -> tuple[int, int]:
    """Return the number of weights of the dense layers and of the head."""
    head = config.vocab_size * config.hidden_size
    embeddings = head if config.tie_word_embeddings else 2 * head
    return config.num_parameters - embeddings, head


def weight_format(engine: Engine) -> str:
    variant = variant_of(engine)
    return str(variant.quantization or variant.dtype).removeprefix("torch.")


def variant_of(engine: Engine) -> Any:
    forecast = engine.load_report.forecast
    if forecast is None:
        raise FalconerError("the engine reports no dtype: it must be loaded on a CPU")
    return forecast.variant


def table_of(result: dict[str, Any]) -> Table:
    title = (
        f"{result['model']}, {result['variant']}: {result['bytes_per_step'] / 1e9:.2f} GB a step"
    )
    table = Table("rows", "ms per step", "tokens/s", "limit", "share of it", title=title, box=None)
    for share in result["rows"]:
        table.add_row(
            str(share["rows"]),
            f"{1000 * share['step_s']:.1f}",
            f"{share['tokens_per_s']:.2f}",
            f"{share['limit_tokens_per_s']:.2f} ({share['read_gb_per_s']:.1f} GB/s)",
            f"{share['share_of_limit']:.0%}",
        )
    return table


if __name__ == "__main__":
    run_command("bench.engine.bandwidth", measure)
