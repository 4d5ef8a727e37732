"""Decoding in fixed shapes: its twin on the CPU repeats what a GPU captures; same tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.engine.pretended_cuda.traffic import KINDS as PARAMETERS
from tests.worker.engine.pretended_cuda.traffic import NUM_TOKENS, STYLES
from tests.worker.engine.workload import Result, ScheduledRequest, run_all
from tests.worker.peft_adapters import write_adapter
from worker.engine import AdapterMode, Engine, EngineConfig, Executor, SamplingParams
from worker.engine.execution.static_decoding import (
    DecodedStep,
    StaticDecoder,
    bucket_sizes,
    run_eagerly,
)
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.sampling.sampler import INVALID_LOGITS
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

MAX_ROWS = 20
CONFIG = EngineConfig(
    max_rows=MAX_ROWS, num_blocks=120, block_size=4, max_step_tokens=96, max_chunk_tokens=16
)
PLAIN = (
    SamplingParams(),
    SamplingParams(do_sample=True, temperature=0.7),
    SamplingParams(do_sample=True, top_k=5),
    SamplingParams(do_sample=True, top_p=0.9),
    SamplingParams(do_sample=True, top_k=50, top_p=0.9, temperature=1.3),
)
KINDS = [
    SamplingParams(max_new_tokens=NUM_TOKENS, seed=seed, **kind)
    for seed, kind in enumerate(PARAMETERS)
]
LONG = SamplingParams(max_new_tokens=12)


@pytest.fixture(scope="module", params=STYLES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    style: str = request.param
    folder = write_random_checkpoint(tmp_path_factory.mktemp("static") / style, like=style)
    write_adapter(folder.parent / "adapters" / "verse", folder, seed=1)
    return folder


def load(checkpoint: Path) -> Engine:
    return Engine.from_pretrained(
        str(checkpoint),
        dtype="float32",
        executor=Executor.TORCH,
        config=CONFIG,
        adapters_dir=str(checkpoint.parent / "adapters"),
        adapter_mode=AdapterMode.SERVE,
    )


class CountingDecoder(StaticDecoder):
    """Counts the rows of the steps that it decodes, and the steps that it leaves to the runner."""

    def __init__(self, runner: ModelRunner, max_rows: int) -> None:
        super().__init__(runner, max_rows)
        self.decoded_rows: list[int] = []
        self.num_left = 0

    def decode(self, plan: StepPlan) -> DecodedStep | None:
        step = super().decode(plan)
        if step is None:
            self.num_left += 1
        else:
            self.decoded_rows.append(len(step.sequences))
        return step


def load_static(checkpoint: Path) -> tuple[Engine, CountingDecoder]:
    """Return an engine that decodes in fixed shapes, with a block for padding."""
    engine = load(checkpoint)
    runner = engine.runner
    assert isinstance(runner, ModelRunner)
    engine.runner = ModelRunner.with_cache(
        runner.model,
        num_blocks=runner.num_blocks,
        block_size=runner.block_size,
        adapters=runner.adapters,
        num_padding_blocks=1,
    )
    engine.decoder = decoder = CountingDecoder(engine.runner, MAX_ROWS)
    assert [*decoder.add_buckets(run_eagerly)] == bucket_sizes(MAX_ROWS)[::-1]
    return engine, decoder


def plain_requests(count: int, arrives: int = 0) -> list[ScheduledRequest]:
    """Requests that the device samples, each two tokens longer than the one before."""
    return [
        ScheduledRequest(
            prompt=tuple(range(12 + number, 16 + number + number % 5)),
            params=replace(PLAIN[number % len(PLAIN)], seed=number, max_new_tokens=5 + 2 * number),
            arrives=arrives,
        )
        for number in range(count)
    ]


def texts(results: list[Result]) -> list[Any]:
    return [(result.failure, result.text) for result in results]


def test_every_bucket_gives_the_tokens_of_the_runner(checkpoint: Path) -> None:
    engine, decoder = load_static(checkpoint)
    scheduled = plain_requests(MAX_ROWS)
    assert texts(run_all(engine, scheduled)) == texts(run_all(load(checkpoint), scheduled))
    assert {*range(1, MAX_ROWS + 1)} == {*decoder.decoded_rows}


def preempt_one(engine: Engine, step: int) -> None:
    if step % 9 == 8 and engine.scheduler.running:
        engine.scheduler.preempt(engine.scheduler.running[-1])


def test_requests_that_fit_no_graph_change_no_token(checkpoint: Path) -> None:
    """Beams, drafts and adapters go the other way, between aborts and preemptions."""
    kinds = [ScheduledRequest((*range(20 + n, 29 + n), 50, 51, 50), p) for n, p in enumerate(KINDS)]
    plain = [*plain_requests(8), *plain_requests(8, arrives=30)]
    served = [replace(request, adapter="verse") for request in plain_requests(2)]
    aborted = [replace(request, leaves=4) for request in plain_requests(9, arrives=25)[-3:]]
    scheduled = [*kinds, *plain, *served, *aborted]
    engine, decoder = load_static(checkpoint)
    other = load(checkpoint)
    results = run_all(engine, scheduled, lambda step: preempt_one(engine, step))
    expected = run_all(other, scheduled, lambda step: preempt_one(other, step))
    assert texts(results) == texts(expected)
    assert engine.num_preemptions > 3
    assert decoder.num_left > 10
    assert len(decoder.decoded_rows) > 10


def test_a_row_with_invalid_logits_fails_alone(checkpoint: Path) -> None:
    engine, decoder = load_static(checkpoint)
    runner = engine.runner
    assert isinstance(runner, ModelRunner)
    [cache] = runner.kv_caches

    def poison(step: int) -> None:
        if step == 3:
            [second] = engine.scheduler.running[1].sequences
            first_slot = second.block_table[0] * cache.block_size
            cache.keys[:, first_slot] = torch.nan

    scheduled = [replace(request, params=LONG) for request in plain_requests(3)]
    results = run_all(engine, scheduled, poison)
    failed = results[1].failure
    assert failed is not None
    assert failed.message == INVALID_LOGITS
    expected = run_all(load(checkpoint), scheduled)
    assert texts([results[0], results[2]]) == texts([expected[0], expected[2]])
    assert 3 in decoder.decoded_rows


def test_without_small_buckets_few_rows_are_padded_to_a_large_one(checkpoint: Path) -> None:
    engine, _ = load_static(checkpoint)
    assert isinstance(engine.runner, ModelRunner)
    engine.decoder = decoder = CountingDecoder(engine.runner, MAX_ROWS)
    assert next(decoder.add_buckets(run_eagerly)) == MAX_ROWS
    scheduled = plain_requests(3)
    assert texts(run_all(engine, scheduled)) == texts(run_all(load(checkpoint), scheduled))
    assert {1, 2, 3} == {*decoder.decoded_rows}
