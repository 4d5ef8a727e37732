"""How a step's chunks lie in the arrays that a runner takes."""

from dataclasses import replace

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.execution.packed_batch import PackedStep
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence_group import SequenceGroup

BLOCK_SIZE = 4


def make_chunk(token_ids: list[int], *, start: int, num_tokens: int, blocks: list[int]) -> Chunk:
    sequence = make_sequence(token_ids)
    sequence.block_table = blocks
    return Chunk(SequenceGroup([sequence]), sequence, start, num_tokens)


def pack() -> PackedStep:
    prefilling = make_chunk(list(range(100, 109)), start=4, num_tokens=3, blocks=[7, 2, 5])
    decoding = make_chunk([50, 51], start=1, num_tokens=1, blocks=[3])
    return PackedStep.of(StepPlan((prefilling, decoding)), BLOCK_SIZE)


def test_tokens_lie_end_to_end_with_their_places_in_their_own_sequences() -> None:
    step = pack()
    assert step.token_ids.tolist() == [104, 105, 106, 51]
    assert step.positions.tolist() == [4, 5, 6, 1]
    assert step.owners().tolist() == [0, 0, 0, 1]
    assert step.cu_seqlens_q.tolist() == [0, 3, 4]


def test_only_rows_that_reach_the_end_of_their_sequence_are_sampled() -> None:
    assert pack().sampled.tolist() == [3]


def test_drafts_lie_behind_the_last_token_and_are_sampled_with_it() -> None:
    guessing = make_chunk([50, 51], start=1, num_tokens=3, blocks=[3])
    guessing = replace(guessing, drafts=(60, 61))
    step = PackedStep.of(StepPlan((guessing, guessing)), BLOCK_SIZE)
    assert step.token_ids.tolist() == [51, 60, 61] * 2
    assert step.positions.tolist() == [1, 2, 3] * 2
    assert step.sampled.tolist() == [0, 1, 2, 3, 4, 5]


def test_contexts_count_what_was_there_and_what_comes() -> None:
    step = pack()
    assert step.past_lens.tolist() == [4, 1]
    assert step.context_lens.tolist() == [7, 2]


def test_blocks_behind_the_context_are_left_out() -> None:
    step = pack()
    assert step.block_indices.tolist() == [7, 2, 3]
    assert step.block_begins.tolist() == [0, 2, 3]
    assert step.block_tables().tolist() == [[7, 2], [3, 0]]


def test_first_tokens_of_nobody_use_one_block() -> None:
    step = PackedStep.of_first_tokens(3)
    assert step.context_lens.tolist() == [1, 1, 1]
    assert step.owners().tolist() == step.sampled.tolist() == [0, 1, 2]
    assert step.block_tables().tolist() == [[0], [0], [0]]


def test_a_first_chunk_of_nobody_uses_as_many_blocks_as_it_fills() -> None:
    step = PackedStep.of_first_chunk(10, BLOCK_SIZE)
    assert step.positions.tolist() == list(range(10))
    assert step.context_lens.tolist() == [10]
    assert step.sampled.tolist() == [9]
    assert step.block_tables().tolist() == [[0, 1, 2]]
