"""The arrays that a step's chunks are packed into, and the warm-up steps."""

from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.execution.packed_batch import WARM_UP_TOKENS, PackedStep, warm_up_steps
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_model

BLOCK_SIZE = 4


def make_chunk(token_ids: list[int], *, start: int, num_tokens: int, blocks: list[int]) -> Chunk:
    sequence = make_sequence(token_ids)
    sequence.block_table = array("i", blocks)
    return Chunk(SequenceGroup([sequence]), sequence, start, num_tokens)


def pack() -> PackedStep:
    prefilling = make_chunk(list(range(100, 109)), start=4, num_tokens=3, blocks=[7, 2, 5])
    decoding = make_chunk([50, 51], start=1, num_tokens=1, blocks=[3])
    return PackedStep.of(StepPlan((prefilling, decoding)), BLOCK_SIZE)


def test_tokens_are_packed_end_to_end_with_positions_in_their_own_sequences() -> None:
    step = pack()
    assert step.token_ids.tolist() == [104, 105, 106, 51]
    assert step.positions.tolist() == [4, 5, 6, 1]
    assert step.chunk_indices().tolist() == [0, 0, 0, 1]
    assert step.cu_seqlens_q.tolist() == [0, 3, 4]


def test_only_rows_that_reach_the_end_of_their_sequence_are_sampled() -> None:
    assert pack().sampled.tolist() == [3]


def test_drafts_follow_the_last_token_and_are_sampled_with_it() -> None:
    drafted = make_chunk([50, 51], start=1, num_tokens=3, blocks=[3])
    drafted = replace(drafted, drafts=(60, 61))
    step = PackedStep.of(StepPlan((drafted, drafted)), BLOCK_SIZE)
    assert step.token_ids.tolist() == [51, 60, 61] * 2
    assert step.positions.tolist() == [1, 2, 3] * 2
    assert step.sampled.tolist() == [0, 1, 2, 3, 4, 5]


def test_context_lengths_count_cached_and_new_tokens() -> None:
    step = pack()
    assert step.past_lens.tolist() == [4, 1]
    assert step.context_lens.tolist() == [7, 2]


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    adapters=st.lists(st.sampled_from([None, "tales"]), min_size=5, max_size=5),
)
def test_decoding_sequences_are_packed_alike_alone_and_before_a_prompt(
    lengths: list[int], adapters: list[str | None]
) -> None:
    chunks = []
    for row, (length, adapter) in enumerate(zip(lengths, adapters, strict=False)):
        blocks = [row * 10 + block for block in range(length // BLOCK_SIZE + 1)]
        tokens = list(range(row * 100, row * 100 + length))
        chunk = make_chunk(tokens, start=length - 1, num_tokens=1, blocks=blocks)
        chunk.sequence.request = replace(chunk.sequence.request, adapter=adapter)
        chunks.append(chunk)
    prompt = make_chunk([1, 2, 3], start=0, num_tokens=2, blocks=[99])
    alone = PackedStep.of(StepPlan(tuple(chunks)), BLOCK_SIZE)
    together = PackedStep.of(StepPlan((*chunks, prompt)), BLOCK_SIZE)
    num_blocks = alone.block_begins[-1]
    assert alone.block_indices.tolist() == together.block_indices[:num_blocks].tolist()
    for name in ("token_ids", "positions", "sampled", "past_lens", "cu_seqlens_q", "block_begins"):
        array, longer = getattr(alone, name), getattr(together, name)
        assert array.dtype == longer.dtype
        assert array.tolist() == longer[: len(array)].tolist()
    assert alone.adapters == together.adapters[:-1]


def test_blocks_after_the_context_are_left_out() -> None:
    step = pack()
    assert step.block_indices.tolist() == [7, 2, 3]
    assert step.block_begins.tolist() == [0, 2, 3]
    assert step.block_tables().tolist() == [[7, 2], [3, 0]]


def test_warm_up_tokens_use_one_block() -> None:
    step = PackedStep.on_shared_blocks([0] * 3, [1] * 3, BLOCK_SIZE)
    assert step.context_lens.tolist() == [1, 1, 1]
    assert step.chunk_indices().tolist() == step.sampled.tolist() == [0, 1, 2]
    assert step.block_tables().tolist() == [[0], [0], [0]]


def test_a_warm_up_chunk_uses_as_many_blocks_as_it_fills() -> None:
    step = PackedStep.on_shared_blocks([0], [10], BLOCK_SIZE)
    assert step.positions.tolist() == list(range(10))
    assert step.context_lens.tolist() == [10]
    assert step.sampled.tolist() == [9]
    assert step.block_tables().tolist() == [[0, 1, 2]]


def test_sequences_of_a_measurement_share_the_blocks_of_their_contexts() -> None:
    step = PackedStep.on_shared_blocks([7, 3], [1, 4], BLOCK_SIZE)
    assert step.positions.tolist() == [7, 3, 4, 5, 6]
    assert step.context_lens.tolist() == [8, 7]
    assert step.sampled.tolist() == [0, 4]
    assert step.block_tables().tolist() == [[0, 1], [0, 1]]


def test_a_cpu_warms_up_with_one_row_and_two() -> None:
    steps = warm_up_steps("cpu", EngineConfig(block_size=BLOCK_SIZE), 100)
    assert [len(step.token_ids) for step in steps] == [1, 2]


@pytest.mark.parametrize(
    ("max_rows", "counts"), [(1, [1]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_a_gpu_warms_up_with_every_power_of_two_of_rows(max_rows: int, counts: list[int]) -> None:
    config = EngineConfig(max_rows=max_rows, max_step_tokens=300, block_size=BLOCK_SIZE)
    *decoding, chunk, longest = warm_up_steps("cuda", config, 100)
    assert [len(step.sampled) for step in decoding] == counts
    assert [len(step.token_ids) for step in decoding] == counts
    assert (len(chunk.token_ids), len(longest.token_ids)) == (WARM_UP_TOKENS, 300)


@pytest.mark.parametrize("num_blocks", [3, 100])
def test_the_warm_up_chunk_of_a_gpu_fits_the_kv_cache_and_can_be_computed(
    num_blocks: int, tmp_path: Path
) -> None:
    *_, chunk = warm_up_steps("cuda", EngineConfig(block_size=BLOCK_SIZE), num_blocks)
    assert len(chunk.token_ids) == min(EngineConfig().max_step_tokens, num_blocks * BLOCK_SIZE)
    runner = ModelRunner.with_cache(
        load_model(str(write_random_checkpoint(tmp_path)), device=torch.device("cpu")),
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
    )
    logits = runner.compute(chunk)
    assert logits.isfinite().all()
