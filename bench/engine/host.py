"""Measure the host's part of a decoding step: all of it but the network.

`python -m bench.engine.host` runs an engine whose runner packs each step and returns prepared
logits of a small vocabulary, so that the bookkeeping of rows counts and not the arithmetic.
"""

import statistics
import time
from collections import defaultdict
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.workloads import FIRST_WORD_ID
from worker.engine import Engine, EngineConfig, Phase, Request, SamplingParams
from worker.engine.execution.packed_batch import PackedStep
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.config import ModelConfig
from worker.model.tokenizer.tokenizer_files import load_tokenizer
from worker.model_loading import settle_garbage_collector

ROWS = (1, 8, 64, 256)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top_k, top_p": {"do_sample": True, "top_k": 10, "top_p": 0.95},
}
HOST, PACK = "host", "pack"
PARTS = (Phase.SCHEDULE, PACK, Phase.SAMPLE, Phase.COMMIT)
BLOCK_SIZE = 32
PROMPT_TOKENS = 480
WARM_UP_STEPS = 16  # the first reads the prompts


class PreparedLogits:
    """A runner that packs its plans as any runner does, and computes nothing."""

    def __init__(self, num_rows: int, vocab_size: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.logits = torch.randn(num_rows, vocab_size, generator=draw)
        self.num_blocks = num_rows * 2 * PROMPT_TOKENS // BLOCK_SIZE
        self.pack_s = 0.0  # of the last step

    def forward(self, plan: StepPlan) -> torch.Tensor:
        started = time.perf_counter()
        step = PackedStep.of(plan, BLOCK_SIZE)
        self.pack_s = time.perf_counter() - started
        return self.logits[: len(step.sampled)]  # no mode changes logits in place


def start(num_rows: int, params: dict[str, Any]) -> tuple[Engine, PreparedLogits]:
    """Return an engine in which all rows decode, after prompts without a common prefix."""
    folder = bundled_checkpoint()
    model_config = ModelConfig.from_checkpoint(folder)
    vocab_size = model_config.vocab_size
    runner = PreparedLogits(num_rows, vocab_size)
    engine = Engine(
        runner=runner,
        tokenizer=load_tokenizer(folder),
        model_config=model_config,
        config=EngineConfig(
            max_rows=num_rows, block_size=BLOCK_SIZE, max_step_tokens=num_rows * PROMPT_TOKENS
        ),
    )
    for row in range(num_rows):
        words = range(row, row + PROMPT_TOKENS)
        prompt = [FIRST_WORD_ID + word % (vocab_size - FIRST_WORD_ID) for word in words]
        sampling = SamplingParams(max_new_tokens=PROMPT_TOKENS, seed=row, **params)
        engine.add(Request(request_id=str(row), prompt_token_ids=prompt, params=sampling))
    for _ in range(WARM_UP_STEPS):
        engine.step()
    return engine, runner


def measure(num_rows: int, params: dict[str, Any], steps: int) -> dict[str, float]:
    """Return the median milliseconds of a step on the host, and of its parts."""
    engine, runner = start(num_rows, params)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    settle_garbage_collector()  # as a worker does
    for _ in range(steps):
        started = time.thread_time()
        engine.step()
        seconds[HOST].append(time.thread_time() - started)
        assert engine.last_step.num_rows == num_rows
        for phase, spent in engine.last_step.seconds.items():
            seconds[phase].append(spent)
        seconds[PACK].append(runner.pack_s)
    return {part: 1e3 * statistics.median(seconds[part]) for part in (HOST, *PARTS)}


def main(
    mode: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(MODES)}.")] = None,
    rows: Annotated[list[int] | None, typer.Option(min=1, help="Rows of a step.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=400, help="Figures are medians.")] = 200,
) -> None:
    torch.set_num_threads(1)
    table = Table("ms of a step", "rows", HOST, *PARTS, box=None)
    for name in mode or MODES:
        for num_rows in rows or ROWS:
            figures = measure(num_rows, MODES[name], steps)
            table.add_row(name, str(num_rows), *(f"{value:.3f}" for value in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
