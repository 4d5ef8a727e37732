"""Blocks given, shared, copied on write, taken back and forgotten: the block manager alone."""

from collections.abc import Callable

import pytest

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.step_plan import BlockCopy
from worker.engine.sequence import Sequence

BLOCK_SIZE = 4


def compute(manager: BlockManager, sequence: Sequence) -> None:
    """Pretend that a step computed all the sequence's tokens."""
    manager.allocate(sequence)
    sequence.num_computed_tokens = sequence.num_tokens
    manager.cache_full_blocks(sequence)


def computed(manager: BlockManager, prompt: list[int]) -> Sequence:
    sequence = make_sequence(prompt)
    compute(manager, sequence)
    return sequence


def fork(manager: BlockManager, parent: Sequence, token_id: int) -> Sequence:
    child = parent.child(1, token_id)
    manager.fork(parent, child)
    return child


def test_a_table_holds_all_tokens_and_grows_by_whole_blocks() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    sequence = computed(manager, [1] * 5)
    assert len(sequence.block_table) == 2
    for _ in range(3):
        sequence.append(1)
        assert manager.allocate(sequence) is None
    assert (len(sequence.block_table), manager.num_free_blocks) == (2, 2)
    sequence.append(1)
    manager.allocate(sequence)
    assert (len(sequence.block_table), manager.num_free_blocks) == (3, 1)
    manager.check_integrity([sequence])


def test_a_sequence_that_needs_one_block_too_many_cannot_be_allocated() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    assert manager.can_allocate(make_sequence([1] * 16))
    assert not manager.can_allocate(make_sequence([1] * 17))
    assert manager.can_allocate(make_sequence([1] * 12), spare_blocks=1)
    assert not manager.can_allocate(make_sequence([1] * 12), spare_blocks=2)


def test_a_fork_shares_every_block_and_counts_as_computed() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    parent = computed(manager, [1] * 6)
    child = fork(manager, parent, 2)
    assert child.block_table == parent.block_table
    assert child.num_computed_tokens == 6
    assert manager.num_free_blocks == 2
    manager.check_integrity([parent, child])


def test_the_first_writer_to_a_shared_block_gets_a_copy_and_the_last_holder_gets_none() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    parent = computed(manager, [1] * 6)
    first, second = fork(manager, parent, 2), fork(manager, parent, 3)
    manager.free(parent)
    full, partial = first.block_table
    block_copy = manager.allocate(first)
    assert block_copy == BlockCopy(partial, first.block_table[1])
    assert first.block_table[1] != partial
    assert manager.allocate(second) is None
    assert list(second.block_table) == [full, partial]
    assert first.block_table[0] == full
    manager.check_integrity([first, second])


def test_a_fork_at_the_border_of_a_block_needs_no_copy() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    parent = computed(manager, [1] * 8)
    children = [fork(manager, parent, token) for token in (2, 3)]
    assert [manager.allocate(child) for child in children] == [None, None]
    assert children[0].block_table[:2] == children[1].block_table[:2]
    assert children[0].block_table[2] != children[1].block_table[2]
    manager.check_integrity([parent, *children])


def test_a_copy_on_write_needs_a_free_block() -> None:
    manager = BlockManager(2, BLOCK_SIZE)
    parent = computed(manager, [1] * 6)
    child = fork(manager, parent, 2)
    assert not manager.can_allocate(child)
    manager.free(parent)
    assert manager.can_allocate(child)


def test_a_block_is_free_when_its_last_holder_frees_it() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    parent = computed(manager, [1] * 6)
    child = fork(manager, parent, 2)
    manager.free(parent)
    assert (list(parent.block_table), parent.num_computed_tokens) == ([], 0)
    assert manager.num_free_blocks == 2
    manager.free(child)
    assert manager.num_free_blocks == 4
    manager.check_integrity([])


def test_blocks_of_an_uncacheable_sequence_evict_no_others() -> None:
    manager = BlockManager(5, BLOCK_SIZE)
    useful = computed(manager, [1] * 8)
    useful.mark_cached_valid()
    manager.free(useful)
    private = make_sequence([2] * 8, SamplingParams(remove_invalid_values=True), arrival=1)
    compute(manager, private)
    private.mark_cached_valid()
    manager.free(private)
    manager.allocate(make_sequence([3] * 8, arrival=2))
    again = make_sequence([1] * 9, arrival=3)
    manager.allocate(again)
    assert again.num_computed_tokens == 8


def test_freeing_twice_is_harmless() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    sequence = computed(manager, [1] * 6)
    manager.free(sequence)
    manager.free(sequence)
    manager.check_integrity([])


def tamper_by_sharing_what_is_not_computed(first: Sequence, second: Sequence) -> None:
    second.block_table[-1] = first.block_table[-1]


def tamper_by_dropping_a_block(first: Sequence, second: Sequence) -> None:
    second.block_table.pop()


def tamper_by_holding_a_free_block(first: Sequence, second: Sequence) -> None:
    second.block_table.append(0)


@pytest.mark.parametrize(
    "tamper",
    [
        tamper_by_sharing_what_is_not_computed,
        tamper_by_dropping_a_block,
        tamper_by_holding_a_free_block,
    ],
)
def test_the_integrity_check_detects_a_wrong_block_table(
    tamper: Callable[[Sequence, Sequence], None],
) -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    first, second = computed(manager, [1] * 5), computed(manager, [2] * 5)
    manager.check_integrity([first, second])
    tamper(first, second)
    with pytest.raises(AssertionError):
        manager.check_integrity([first, second])


def test_the_integrity_check_detects_a_shared_block_that_is_not_computed() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    parent = computed(manager, [1] * 6)
    child = fork(manager, parent, 2)
    manager.check_integrity([parent, child])
    child.num_computed_tokens = 4
    with pytest.raises(AssertionError):
        manager.check_integrity([parent, child])
