"""Measure speculative decoding: step time by tokens per step, and speed with and without quotes.

`python -m bench.engine.speculation --model DIR`. Runs with and without drafts alternate, so that a
machine whose speed drifts affects both alike.
"""

import json
import statistics
import time
from array import array
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

import typer

from bench.engine.engine_bench import EngineBench
from worker.engine import Engine, Request, SamplingParams, generate
from worker.engine.sampling.logits_processors.base import LogitsPipeline
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence import Sequence

STEP_TOKENS = (1, 2, 4, 8, 11, 16, 24, 32)
CONTEXT = 256  # tokens in the cache before the step
REPETITIVE, RANDOM = TEXTS = ("repetitive", "random")
START = "The hill is steep,"


@dataclass(slots=True)
class Pace:
    """Tokens, steps and seconds of one run."""

    num_tokens: int
    num_steps: int
    seconds: float

    @classmethod
    def of(cls, engine: Engine, requests: list[Request]) -> "Pace":
        for request in requests:
            engine.add(request)
        num_tokens = num_steps = 0
        started = time.perf_counter()
        while engine.has_work:
            num_tokens += len(engine.step())
            num_steps += 1
        return cls(num_tokens, num_steps, time.perf_counter() - started)


def step_seconds(engine: Engine, *, rounds: int) -> dict[int, float]:
    """Return the median seconds of a forward pass by its number of tokens, with logits of all.

    The engine must be new, because the passes write to blocks that nothing has allocated.
    """
    token_ids = [1 + i % 50 for i in range(CONTEXT + 1)]
    request = Request(request_id="cost", prompt_token_ids=token_ids, params=SamplingParams())
    sequence = Sequence.of(request, index=0, arrival=0, pipeline=LogitsPipeline())
    block_size = engine.config.block_size
    sequence.block_table = array("i", range(-(-(CONTEXT + max(STEP_TOKENS)) // block_size)))
    seconds: dict[int, list[float]] = {count: [] for count in STEP_TOKENS}
    for _ in range(rounds):
        for count in STEP_TOKENS:
            drafts = (2,) * (count - 1)
            chunk = Chunk(SequenceGroup([sequence]), sequence, CONTEXT, count, drafts=drafts)
            started = time.perf_counter()
            engine.runner.forward(StepPlan((chunk,)))
            seconds[count].append(time.perf_counter() - started)
    return {count: statistics.median(values) for count, values in seconds.items()}


def make_requests(
    engine: Engine, text: str, num_drafts: int, *, rows: int, num_new: int
) -> list[Request]:
    """Return `rows` requests with different seeds, for a repetitive text or a random one."""
    prompt = engine.tokenizer.encode(START).ids
    params = SamplingParams(do_sample=True, temperature=1.5)
    if text == REPETITIVE:
        params = SamplingParams(max_new_tokens=num_new)
        [[continuation]] = generate(engine, [START], params)
        prompt = [*prompt, *continuation.token_ids, *prompt]
    params = replace(params, max_new_tokens=num_new, prompt_lookup_num_tokens=num_drafts)
    return [
        Request(request_id=str(row), prompt_token_ids=prompt, params=replace(params, seed=row))
        for row in range(rows)
    ]


def compare(
    engine: Engine, text: str, *, num_drafts: int, rows: int, num_new: int, rounds: int
) -> dict[str, Any]:
    """Return tokens per step and per second without and with drafts, and each round's speedup."""
    speedups = []
    for _ in range(rounds):
        plain, drafted = (
            Pace.of(engine, make_requests(engine, text, count, rows=rows, num_new=num_new))
            for count in (0, num_drafts)
        )
        speedups.append(plain.seconds / drafted.seconds)
    return {
        "tokens_per_step": [pace.num_tokens / pace.num_steps for pace in (plain, drafted)],
        "tokens_per_s": [pace.num_tokens / pace.seconds for pace in (plain, drafted)],
        "speedup": statistics.median(speedups),
        "speedups": speedups,
    }


def measure(
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")] = "tiny",
    drafts: Annotated[int, typer.Option(min=1, help="Drafts per step.")] = 10,
    new: Annotated[int, typer.Option(min=1, help="New tokens per request.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a step.")] = None,
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Figures are medians over the rounds.")] = 5,
) -> None:
    engine, _ = EngineBench(model, executor=executor, threads=threads).load()
    figures: dict[str, Any] = {"step_s": step_seconds(engine, rounds=4 * rounds)}
    for text, rows in product(TEXTS, (1, 4, 16)):
        figures[f"{text}, {rows} rows"] = compare(
            engine, text, num_drafts=drafts, rows=rows, num_new=new, rounds=rounds
        )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(measure)
