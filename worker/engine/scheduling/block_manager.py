"""Ownership of the blocks of the KV cache. Plain Python: counts and ids, no tensors, no policy."""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable

from worker.engine.scheduling.prefix_cache import BlockKey, CachedBlock, PrefixCache
from worker.engine.scheduling.step_plan import BlockCopy
from worker.engine.sequence import Sequence


class BlockManager:
    """Allocate blocks of `block_size` tokens; the `block_table` of a sequence is the only record.

    Forks, and sequences with a common prefix, share blocks. A shared block is read only. Blocks
    that hold only computed tokens keep their place in the table. A full block that no sequence
    holds stays in the prefix cache until it is evicted, the least recently freed one first.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_prefix_hit_tokens = 0
        self._num_holders = [0] * num_blocks
        self._free_blocks = list(range(num_blocks))
        self._evictable_blocks: OrderedDict[int, None] = (
            OrderedDict()
        )  # held by no sequence, cached
        self.prefix_cache = PrefixCache(block_size)

    @property
    def num_free_blocks(self) -> int:
        """Return the number of blocks that no sequence holds, cached blocks included."""
        return len(self._free_blocks) + len(self._evictable_blocks)

    @property
    def num_held_blocks(self) -> int:
        return self.num_blocks - self.num_free_blocks

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def can_allocate(self, sequence: Sequence, *, spare_blocks: int = 0) -> bool:
        """Return whether all its tokens can get slots while `spare_blocks` blocks stay free."""
        return self._num_needed_blocks(sequence) + spare_blocks <= self.num_free_blocks

    def allocate(self, sequence: Sequence) -> BlockCopy | None:
        """Allocate slots for all tokens of a sequence; `can_allocate` must be true.

        Cached blocks that other sequences have computed replace its own and count as computed. A
        shared block that the sequence will write to is replaced by a copy. Returns that copy, to be
        made before the next forward pass.
        """
        self._use_cached_blocks(sequence)
        block_copy = self._unshare_next_block(sequence)
        num_blocks = self.num_blocks_for(sequence.num_tokens)
        for _ in range(num_blocks - len(sequence.block_table)):
            sequence.block_table.append(self._take_block())
        return block_copy

    def is_allocated(self, sequence: Sequence) -> bool:
        """Return whether `allocate` would change nothing, as in most steps of a decoding sequence.

        So it is if the tokens after its cached blocks lie in one block that it does not share.
        """
        num_cached = sequence.num_cached_blocks
        return (
            0 < len(sequence.token_ids) - num_cached * self.block_size <= self.block_size
            and num_cached < len(sequence.block_table)
            and self._num_holders[sequence.block_table[num_cached]] == 1
        )

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Share the blocks of `parent` with `child`; its tokens begin with the computed tokens."""
        child.block_table = parent.block_table[: self.num_blocks_for(parent.num_computed_tokens)]
        for block in child.block_table:
            self._num_holders[block] += 1
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_cached_blocks = parent.num_cached_blocks
        child.num_valid_cached_blocks = parent.num_valid_cached_blocks
        child.prefix_id = parent.prefix_id

    def cache_full_blocks(self, sequence: Sequence) -> None:
        """Add the full blocks that the sequence has computed to the prefix cache."""
        while (sequence.num_cached_blocks + 1) * self.block_size <= sequence.num_computed_tokens:
            block = sequence.block_table[sequence.num_cached_blocks]
            sequence.prefix_id = self.prefix_cache.add(self._next_key(sequence), block)
            sequence.num_cached_blocks += 1

    def next_shareable(self, sequence: Sequence) -> BlockKey | None:
        """Return the key of the block that comes next, if a cached block could replace it."""
        end = (sequence.num_cached_blocks + 1) * self.block_size
        return self._next_key(sequence) if end < len(sequence.token_ids) else None

    def free(self, sequence: Sequence) -> None:
        """Free all blocks; blocks that led to no valid logits leave the prefix cache.

        All blocks of a sequence that is not `is_cacheable` leave it: no other could use them.
        """
        num_kept = sequence.num_valid_cached_blocks if sequence.is_cacheable else 0
        for block in sequence.block_table[num_kept:]:
            self.prefix_cache.remove(block)
        for block in reversed(sequence.block_table):  # so that a prefix outlives what follows it
            self._release(block)
        sequence.block_table = array("i")
        sequence.num_computed_tokens = 0
        sequence.num_cached_blocks = sequence.num_valid_cached_blocks = 0
        sequence.prefix_id = sequence.empty_prefix_id

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that tables, counts and cache agree; `sequences` are all that hold blocks.

        Every block is free, evictable or held. A shared block holds computed tokens only.
        """
        sequences = list(sequences)
        holders = Counter(block for sequence in sequences for block in sequence.block_table)
        assert holders == {b: count for b, count in enumerate(self._num_holders) if count}
        unheld = [*self._free_blocks, *self._evictable_blocks]
        assert sorted([*holders, *unheld]) == list(range(self.num_blocks))
        assert all(block in self.prefix_cache for block in self._evictable_blocks)
        assert not any(block in self.prefix_cache for block in self._free_blocks)
        for sequence in sequences:
            num_written = self.num_blocks_for(sequence.num_computed_tokens)
            assert all(holders[block] == 1 for block in sequence.block_table[num_written:])
        self.prefix_cache.check_integrity()

    def _num_needed_blocks(self, sequence: Sequence) -> int:
        num_blocks = self.num_blocks_for(sequence.num_tokens)
        if not sequence.block_table:
            cached = self._cached_blocks(sequence)
            return num_blocks - sum(self._num_holders[hit.block] > 0 for hit in cached)
        return num_blocks - len(sequence.block_table) + self._shares_next_block(sequence)

    def _next_key(self, sequence: Sequence) -> BlockKey:
        start = sequence.num_cached_blocks * self.block_size
        token_ids = sequence.token_ids[start : start + self.block_size]
        return BlockKey(sequence.prefix_id, tuple(token_ids))

    def _cached_blocks(self, sequence: Sequence) -> list[CachedBlock]:
        """Return the cached blocks that follow the blocks of the sequence itself."""
        start = sequence.num_cached_blocks * self.block_size
        return self.prefix_cache.match(sequence.prefix_id, sequence.token_ids, start)

    def _use_cached_blocks(self, sequence: Sequence) -> None:
        cached = self._cached_blocks(sequence)
        if not cached:
            return
        first, end = sequence.num_cached_blocks, sequence.num_cached_blocks + len(cached)
        for block, _ in cached:
            self._evictable_blocks.pop(block, None)
            self._num_holders[block] += 1
        for block in sequence.block_table[first:end]:
            self._release(block)
        sequence.block_table[first:end] = array("i", [hit.block for hit in cached])
        if sequence.num_valid_cached_blocks == first:  # cached blocks of others are valid
            sequence.num_valid_cached_blocks = end
        sequence.num_cached_blocks = end
        sequence.prefix_id = cached[-1].prefix_id
        self.num_prefix_hit_tokens += end * self.block_size - sequence.num_computed_tokens
        if sequence.prompt_scores is not None:
            num_cached = min(end * self.block_size, sequence.num_prompt_tokens)
            sequence.prompt_scores.num_cached_tokens = num_cached
        sequence.num_computed_tokens = end * self.block_size

    def _shares_next_block(self, sequence: Sequence) -> bool:
        """Return whether other sequences hold the block of its first uncomputed token."""
        index = sequence.num_computed_tokens // self.block_size
        table = sequence.block_table
        return index < len(table) and self._num_holders[table[index]] > 1

    def _unshare_next_block(self, sequence: Sequence) -> BlockCopy | None:
        if not self._shares_next_block(sequence):
            return None
        index = sequence.num_computed_tokens // self.block_size
        block_copy = BlockCopy(sequence.block_table[index], self._take_block())
        self._num_holders[block_copy.source] -= 1
        sequence.block_table[index] = block_copy.destination
        return block_copy

    def _take_block(self) -> int:
        if self._free_blocks:
            block = self._free_blocks.pop()
        else:
            block, _ = self._evictable_blocks.popitem(last=False)
            self.prefix_cache.remove(block)
        self._num_holders[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._num_holders[block] -= 1
        if self._num_holders[block] > 0:
            return
        if block in self.prefix_cache:
            self._evictable_blocks[block] = None
        else:
            self._free_blocks.append(block)
