"""Who holds which block of the KV cache. Plain Python: counts and ids, no tensors, no policy."""

from collections import Counter, OrderedDict
from collections.abc import Iterable

from worker.engine.scheduling.prefix_cache import BlockKey, CachedBlock, PrefixCache
from worker.engine.scheduling.step_plan import BlockCopy
from worker.engine.sequence import Sequence


class BlockManager:
    """Gives blocks of `block_size` tokens to sequences; their `block_table` is the only record.

    Several sequences may hold a block: forks of one another, and those with a prefix in common.
    A shared block is read only. A table only ever changes from the block of the first token on
    that is not computed. A full block that nobody holds stays findable until its room is needed;
    the one that was left longest ago goes first.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_prefix_hit_tokens = 0
        self._num_holders = [0] * num_blocks
        self._free_blocks = list(range(num_blocks))
        self._evictable_blocks: OrderedDict[int, None] = OrderedDict()  # held by nobody, cached
        self._prefix_cache = PrefixCache(block_size)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds, whether or not they can still be found by their tokens."""
        return len(self._free_blocks) + len(self._evictable_blocks)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def can_allocate(self, sequence: Sequence, *, spare_blocks: int = 0) -> bool:
        """Whether every token the sequence has now can get a slot, and `spare_blocks` stay free."""
        return self._num_needed_blocks(sequence) + spare_blocks <= self.num_free_blocks

    def allocate(self, sequence: Sequence) -> BlockCopy | None:
        """Give all the sequence's tokens a slot, which `can_allocate` said there is.

        Blocks that others have computed meanwhile take the place of its own and count as computed.
        A block that others hold as well and that it will write to becomes its own; the copy that
        this takes is returned, and must be made before the next forward pass.
        """
        self._use_cached_blocks(sequence)
        block_copy = self._unshare_next_block(sequence)
        num_blocks = self.num_blocks_for(sequence.num_tokens)
        for _ in range(num_blocks - len(sequence.block_table)):
            sequence.block_table.append(self._take_block())
        return block_copy

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let `child`, whose tokens begin with all computed ones of `parent`, share its blocks."""
        child.block_table = parent.block_table[: self.num_blocks_for(parent.num_computed_tokens)]
        for block in child.block_table:
            self._num_holders[block] += 1
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_filed_blocks = parent.num_filed_blocks
        child.num_sound_blocks = parent.num_sound_blocks
        child.prefix_id = parent.prefix_id

    def file_computed(self, sequence: Sequence) -> None:
        """Make the full blocks that the sequence has computed findable for others."""
        while (sequence.num_filed_blocks + 1) * self.block_size <= sequence.num_computed_tokens:
            block = sequence.block_table[sequence.num_filed_blocks]
            sequence.prefix_id = self._prefix_cache.add(self._next_key(sequence), block)
            sequence.num_filed_blocks += 1

    def next_shareable(self, sequence: Sequence) -> BlockKey | None:
        """What the next block will hold, if the sequence could just as well use another's."""
        end = (sequence.num_filed_blocks + 1) * self.block_size
        return self._next_key(sequence) if end < sequence.num_tokens else None

    def free(self, sequence: Sequence) -> None:
        """Let go of every block. What is not known to be sound is not found any more.

        Nor is what has a prefix of its own: hardly anybody could, and it would push others out.
        """
        num_kept = 0 if sequence.keeps_to_itself else sequence.num_sound_blocks
        for block in sequence.block_table[num_kept:]:
            self._prefix_cache.remove(block)
        for block in reversed(sequence.block_table):  # so that a prefix outlives what follows it
            self._let_go(block)
        sequence.block_table = []
        sequence.num_computed_tokens = 0
        sequence.num_filed_blocks = sequence.num_sound_blocks = 0
        sequence.prefix_id = sequence.prefix_root

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that tables, counts and cache agree, where `sequences` are all that hold blocks.

        Every block is free, evictable or held; what is shared was computed by all its holders.
        """
        sequences = list(sequences)
        holders = Counter(block for sequence in sequences for block in sequence.block_table)
        assert holders == {b: count for b, count in enumerate(self._num_holders) if count}
        loose = [*self._free_blocks, *self._evictable_blocks]
        assert sorted([*holders, *loose]) == list(range(self.num_blocks))
        assert all(block in self._prefix_cache for block in self._evictable_blocks)
        assert not any(block in self._prefix_cache for block in self._free_blocks)
        for sequence in sequences:
            num_written = self.num_blocks_for(sequence.num_computed_tokens)
            assert all(holders[block] == 1 for block in sequence.block_table[num_written:])
        self._prefix_cache.check_integrity()

    def _num_needed_blocks(self, sequence: Sequence) -> int:
        num_blocks = self.num_blocks_for(sequence.num_tokens)
        if not sequence.block_table:
            cached = self._cached_blocks(sequence)
            return num_blocks - sum(self._num_holders[hit.block] > 0 for hit in cached)
        return num_blocks - len(sequence.block_table) + self._shares_next_block(sequence)

    def _next_key(self, sequence: Sequence) -> BlockKey:
        start = sequence.num_filed_blocks * self.block_size
        token_ids = sequence.token_ids[start : start + self.block_size]
        return BlockKey(sequence.prefix_id, tuple(token_ids))

    def _cached_blocks(self, sequence: Sequence) -> list[CachedBlock]:
        """What can be found of the blocks that the sequence has not filled yet."""
        start = sequence.num_filed_blocks * self.block_size
        return self._prefix_cache.match(sequence.prefix_id, sequence.token_ids, start)

    def _use_cached_blocks(self, sequence: Sequence) -> None:
        cached = self._cached_blocks(sequence)
        if not cached:
            return
        first, end = sequence.num_filed_blocks, sequence.num_filed_blocks + len(cached)
        for block, _ in cached:
            self._evictable_blocks.pop(block, None)
            self._num_holders[block] += 1
        for block in sequence.block_table[first:end]:
            self._let_go(block)
        sequence.block_table[first:end] = [hit.block for hit in cached]
        if sequence.num_sound_blocks == first:  # who computed the others vouches for them
            sequence.num_sound_blocks = end
        sequence.num_filed_blocks = end
        sequence.prefix_id = cached[-1].prefix_id
        self.num_prefix_hit_tokens += end * self.block_size - sequence.num_computed_tokens
        sequence.num_computed_tokens = end * self.block_size

    def _shares_next_block(self, sequence: Sequence) -> bool:
        """Whether others hold the block of the first token that is not computed yet."""
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
            self._prefix_cache.remove(block)
        self._num_holders[block] = 1
        return block

    def _let_go(self, block: int) -> None:
        self._num_holders[block] -= 1
        if self._num_holders[block] > 0:
            return
        if block in self._prefix_cache:
            self._evictable_blocks[block] = None
        else:
            self._free_blocks.append(block)
