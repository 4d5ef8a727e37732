"""Who holds which block of the KV cache. Plain Python: counts and ids, no tensors, no policy."""

from collections.abc import Iterable

from worker.engine.sequence import Sequence


class BlockManager:
    """Gives blocks of `block_size` tokens to sequences; their `block_table` is the only record."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free_blocks = list(range(num_blocks))

    @property
    def num_free_blocks(self) -> int:
        return len(self._free_blocks)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def can_allocate(self, sequence: Sequence, *, spare_blocks: int = 0) -> bool:
        """Whether every token the sequence has now can get a slot, and `spare_blocks` stay free."""
        return self._num_missing_blocks(sequence) + spare_blocks <= self.num_free_blocks

    def allocate(self, sequence: Sequence) -> None:
        """Extend the block table to hold all the sequence's tokens; `can_allocate` said so."""
        for _ in range(self._num_missing_blocks(sequence)):
            sequence.block_table.append(self._free_blocks.pop())

    def free(self, sequence: Sequence) -> None:
        """Take every block back; what was computed in them is forgotten."""
        self._free_blocks.extend(reversed(sequence.block_table))
        sequence.block_table.clear()
        sequence.num_computed_tokens = 0

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that every block is free or in exactly one table of `sequences`, all of them."""
        held = [block for sequence in sequences for block in sequence.block_table]
        assert sorted(held + self._free_blocks) == list(range(self.num_blocks))

    def _num_missing_blocks(self, sequence: Sequence) -> int:
        return max(0, self.num_blocks_for(sequence.num_tokens) - len(sequence.block_table))
