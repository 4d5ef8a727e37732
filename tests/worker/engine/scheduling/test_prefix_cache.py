"""Which tokens are found in the cache, which are not any more, and which must never be."""

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.prefix_cache import BlockKey, PrefixCache
from worker.engine.sequence import EMPTY_PREFIX, Sequence

BLOCK_SIZE = 4
TEXT = list(range(1, 13))  # three blocks
SELF_REPAIRING = SamplingParams(remove_invalid_values=True)


def start(manager: BlockManager, tokens: list[int], *, computing: int = 0) -> Sequence:
    """Return a sequence with blocks, and `computing` or more tokens computed or cached."""
    sequence = make_sequence(tokens)
    manager.allocate(sequence)
    sequence.num_computed_tokens = max(sequence.num_computed_tokens, computing)
    manager.cache_full_blocks(sequence)
    return sequence


def finish_sequence(manager: BlockManager, tokens: list[int]) -> None:
    """Run a sequence to its end: it computes all tokens, gets one more and frees its blocks."""
    sequence = start(manager, tokens, computing=len(tokens))
    sequence.append(0)
    manager.free(sequence)


def num_cached_tokens(manager: BlockManager, tokens: list[int]) -> int:
    """Return the number of tokens that a new sequence finds in the cache."""
    return BLOCK_SIZE * len(manager.prefix_cache.match(EMPTY_PREFIX, tokens, start=0))


def test_full_blocks_of_a_finished_sequence_are_found_and_partial_blocks_are_not() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    finish_sequence(manager, TEXT[:11])
    assert manager.num_free_blocks == 8
    assert num_cached_tokens(manager, TEXT) == 8
    assert num_cached_tokens(manager, [*TEXT[:5], 99, *TEXT[6:]]) == 4
    assert num_cached_tokens(manager, [99, *TEXT[1:]]) == 0


def test_a_block_is_found_while_its_owner_still_computes_the_next() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    owner = start(manager, TEXT, computing=7)
    other = start(manager, TEXT)
    assert other.num_computed_tokens == 4
    assert other.block_table[0] == owner.block_table[0]
    assert other.block_table[1] != owner.block_table[1]
    manager.check_integrity([owner, other])


def test_the_last_token_is_always_computed_so_that_it_yields_logits() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    finish_sequence(manager, TEXT[:8])
    assert num_cached_tokens(manager, TEXT[:8]) == 4
    assert num_cached_tokens(manager, TEXT[:9]) == 8


def test_equal_tokens_after_different_tokens_are_another_block() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    finish_sequence(manager, [1, 1, 1, 1, 7, 7, 7, 7])
    finish_sequence(manager, [2, 2, 2, 2])
    assert num_cached_tokens(manager, [2, 2, 2, 2, 7, 7, 7, 7, 0]) == 4


def test_token_ids_with_colliding_hashes_are_different_text() -> None:
    assert hash((-1,)) == hash((-2,))
    cache = PrefixCache(1)
    cache.add(BlockKey(EMPTY_PREFIX, (-1,)), block=0)
    assert [hit.block for hit in cache.match(EMPTY_PREFIX, [-1, 0], start=0)] == [0]
    assert cache.match(EMPTY_PREFIX, [-2, 0], start=0) == []


def test_a_block_that_two_sequences_compute_at_once_is_cached_once_and_stays() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    first, second = make_sequence(TEXT[:8]), make_sequence(TEXT[:8])
    for sequence in (first, second):
        manager.allocate(sequence)
    for sequence in (first, second):
        sequence.num_computed_tokens = 8
        manager.cache_full_blocks(sequence)
    assert first.prefix_id == second.prefix_id
    manager.free(second)
    manager.check_integrity([first])
    found = start(manager, TEXT)
    assert found.block_table[:2] == first.block_table[:2]


def test_eviction_starts_with_the_least_recently_used_text_and_its_last_block() -> None:
    manager = BlockManager(4, BLOCK_SIZE)
    finish_sequence(manager, [7] * 4)
    finish_sequence(manager, TEXT[:8])
    finish_sequence(manager, [8] * 4)
    again = start(manager, [7] * 5)  # takes the cached blocks and one more
    assert [num_cached_tokens(manager, text) for text in (TEXT, [8] * 5)] == [4, 4]
    manager.free(again)
    start(manager, [9] * 8)
    assert [num_cached_tokens(manager, text) for text in (TEXT, [8] * 5, [7] * 5)] == [0, 4, 4]


def test_cached_blocks_without_a_holder_count_as_free_and_are_evicted() -> None:
    manager = BlockManager(2, BLOCK_SIZE)
    finish_sequence(manager, TEXT[:8])
    other = make_sequence([9] * 8)
    assert manager.can_allocate(other)
    manager.allocate(other)
    assert manager.num_free_blocks == 0
    manager.free(other)
    assert num_cached_tokens(manager, TEXT) == 0


def test_a_hit_on_a_held_block_takes_no_free_block() -> None:
    manager = BlockManager(3, BLOCK_SIZE)
    holder = start(manager, TEXT[:8], computing=8)
    wish = make_sequence(TEXT[:9])
    assert manager.can_allocate(wish)
    holder.append(0)
    manager.free(holder)
    start(manager, [9])
    assert not manager.can_allocate(wish)


def test_blocks_of_a_sequence_without_any_new_token_leave_the_cache() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    owner = start(manager, TEXT, computing=8)
    other = start(manager, TEXT)
    assert other.num_computed_tokens == 8
    manager.free(owner)
    assert num_cached_tokens(manager, TEXT) == 0
    manager.free(other)
    manager.check_integrity([])


def test_a_failed_sequence_removes_only_the_blocks_it_computed_from_the_cache() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    finish_sequence(manager, TEXT[:4])
    failed = start(manager, TEXT, computing=12)
    manager.free(failed)
    assert num_cached_tokens(manager, [*TEXT, 0]) == 4


def test_blocks_computed_after_the_last_token_leave_the_cache() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    failed = start(manager, TEXT[:7], computing=7)
    failed.append(TEXT[7])
    failed.num_computed_tokens = 8
    manager.cache_full_blocks(failed)
    manager.free(failed)
    assert num_cached_tokens(manager, TEXT) == 4


def test_a_request_that_repairs_logits_uses_only_its_own_blocks() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    finish_sequence(manager, TEXT[:4])
    own = make_sequence(TEXT, SELF_REPAIRING, arrival=1)
    manager.allocate(own)
    assert own.num_computed_tokens == 0
    own.num_computed_tokens = 12
    manager.cache_full_blocks(own)
    own.append(0)
    assert num_cached_tokens(manager, TEXT) == 4
    mate = own.child(1, 0)
    manager.allocate(mate)
    assert mate.num_computed_tokens == 12
    manager.check_integrity([own, mate])


def test_blocks_of_an_adapter_are_found_by_the_same_adapter_only() -> None:
    manager = BlockManager(16, BLOCK_SIZE)
    for name in ("verse", None):
        sequence = make_sequence(TEXT, adapter=name)
        manager.allocate(sequence)
        assert sequence.num_computed_tokens == 0, name
        sequence.num_computed_tokens = 12
        manager.cache_full_blocks(sequence)
        sequence.append(0)
        manager.free(sequence)
    for name, num_hits in (("verse", 8), (None, 8), ("tales", 0)):
        sequence = make_sequence(TEXT, adapter=name)
        manager.allocate(sequence)
        assert sequence.num_computed_tokens == num_hits, name
        manager.free(sequence)
    manager.check_integrity([])


def test_hits_are_counted_in_tokens() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    finish_sequence(manager, TEXT)
    for _ in range(2):
        start(manager, TEXT)
    assert manager.num_prefix_hit_tokens == 16


def test_blocks_that_other_sequences_filled_meanwhile_replace_own_empty_blocks() -> None:
    manager = BlockManager(8, BLOCK_SIZE)
    owner = start(manager, TEXT)
    other = start(manager, [*TEXT, 99], computing=2)
    assert manager.num_free_blocks == 1
    owner.num_computed_tokens = 9
    manager.cache_full_blocks(owner)
    own = other.block_table[2:]
    assert manager.can_allocate(other)
    manager.allocate(other)
    assert other.block_table == owner.block_table[:2] + own
    assert other.num_computed_tokens == 8
    assert (manager.num_free_blocks, manager.num_prefix_hit_tokens) == (3, 6)
    manager.check_integrity([owner, other])


def test_finding_a_later_block_does_not_verify_an_earlier_own_one() -> None:
    manager = BlockManager(9, BLOCK_SIZE)
    failing = start(manager, TEXT, computing=4)
    ahead = start(manager, TEXT, computing=8)
    manager.allocate(failing)
    assert failing.block_table[:2] == ahead.block_table[:2]
    manager.free(failing)
    assert num_cached_tokens(manager, TEXT) == 0


def test_equal_texts_have_the_same_next_block_until_they_part() -> None:
    manager = BlockManager(16, BLOCK_SIZE)
    one, other = start(manager, TEXT), start(manager, [*TEXT[:6], 99, 99, 99])
    assert manager.next_shareable(one) == manager.next_shareable(other) is not None
    for sequence in (one, other):
        sequence.num_computed_tokens = 4
        manager.cache_full_blocks(sequence)
    assert manager.next_shareable(one) != manager.next_shareable(other)
    assert manager.next_shareable(other) is not None


def test_blocks_that_no_other_sequence_could_use_are_not_shareable() -> None:
    manager = BlockManager(16, BLOCK_SIZE)
    assert manager.next_shareable(start(manager, TEXT[:4])) is None
    assert manager.next_shareable(start(manager, TEXT[:8], computing=4)) is None
    repairing = [make_sequence(TEXT, SELF_REPAIRING, arrival=n) for n in range(2)]
    first, second, third = map(manager.next_shareable, [*repairing, make_sequence(TEXT)])
    assert len({first, second, third}) == 3
