"""A hundred thousand random operations on a small pool of blocks, checked after each.

A model of the cache's content goes along: every slot remembers all the tokens up to its own. So
it detects a write to a shared block, a missing copy and a wrong prefix.
"""

from collections.abc import Callable
from random import Random

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.sequence import Sequence

BLOCK_SIZE = 4
NUM_BLOCKS = 14
NUM_OPERATIONS = 100_000
MAX_TOKENS = 22
MAX_SEQUENCES = 9
INVALID = "nan"


class Pool:
    """Sequences with one block manager, and the expected contents of their blocks.

    One in eight is invalid: its blocks hold invalid values, so no token is sampled for it.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.manager = BlockManager(NUM_BLOCKS, BLOCK_SIZE)
        self.slots: list[tuple[int, ...] | str | None] = [None] * (NUM_BLOCKS * BLOCK_SIZE)
        self.sequences: list[Sequence] = []
        self.invalid: set[Sequence] = set()
        self.num_copies = self.num_refusals = self.num_allocated = 0

    def add(self) -> None:
        """Add a prompt of two distinct tokens, so that many prompts share a prefix."""
        if len(self.sequences) == MAX_SEQUENCES:
            self.free()
        length = self.random.randint(1, 14)
        sequence = make_sequence(
            self.random.choices((1, 2), (9, 1), k=length),
            SamplingParams(remove_invalid_values=self.random.random() < 0.1),
            arrival=self.random.randrange(3),
        )
        self.sequences.append(sequence)
        if self.random.random() < 0.125:
            self.invalid.add(sequence)

    def allocate(self) -> None:
        sequence = self.pick()
        if not self.manager.can_allocate(sequence):
            self.num_refusals += 1
            return
        is_allocated, before = self.manager.is_allocated(sequence), self.state_of(sequence)
        block_copy = self.manager.allocate(sequence)
        if is_allocated:
            self.num_allocated += 1
            assert (block_copy, self.state_of(sequence)) == (None, before)
        if block_copy is not None:
            self.num_copies += 1
            for offset in range(BLOCK_SIZE):
                content = self.slots[block_copy.source * BLOCK_SIZE + offset]
                self.slots[block_copy.destination * BLOCK_SIZE + offset] = content

    def compute(self) -> None:
        """Write some of the tokens that have slots; all earlier tokens must be there already."""
        sequence = self.pick()
        num_slots = min(len(sequence.block_table) * BLOCK_SIZE, sequence.num_tokens)
        if num_slots <= sequence.num_computed_tokens or self.shares_what_it_writes(sequence):
            return
        is_invalid = self.has_invalid_content(sequence) or sequence in self.invalid
        end = self.random.randint(sequence.num_computed_tokens + 1, num_slots)
        for position in range(sequence.num_computed_tokens, end):
            content = INVALID if is_invalid else tuple(sequence.token_ids[: position + 1])
            self.slots[self.slot(sequence, position)] = content
        sequence.num_computed_tokens = end
        self.manager.cache_full_blocks(sequence)
        if is_invalid:
            self.invalid.add(sequence)

    def append(self) -> None:
        sequence = self.pick()
        if self.may_continue(sequence):
            sequence.append(self.random.choice((1, 2)))

    def fork(self) -> None:
        parent = self.pick()
        if self.may_continue(parent) and len(self.sequences) < MAX_SEQUENCES:
            child = parent.child(1, self.random.choice((1, 2)))
            self.manager.fork(parent, child)
            self.sequences.append(child)

    def free(self) -> None:
        """Free a sequence that may have finished, failed or been aborted."""
        sequence = self.pick()
        self.manager.free(sequence)
        self.sequences.remove(sequence)
        self.invalid.discard(sequence)

    def preempt(self) -> None:
        self.manager.free(self.pick())

    def pick(self) -> Sequence:
        if not self.sequences:
            self.add()
        return self.random.choice(self.sequences)

    def may_continue(self, sequence: Sequence) -> bool:
        all_computed = sequence.num_uncomputed_tokens == 0
        return all_computed and sequence not in self.invalid and sequence.num_tokens < MAX_TOKENS

    def state_of(self, sequence: Sequence) -> tuple[list[int], int, int]:
        """Return its blocks, its computed tokens and the number of free blocks."""
        num_free = self.manager.num_free_blocks
        return list(sequence.block_table), sequence.num_computed_tokens, num_free

    def shares_what_it_writes(self, sequence: Sequence) -> bool:
        """Return whether another sequence holds the block of its next token, as after a fork."""
        index = sequence.num_computed_tokens // BLOCK_SIZE
        block = sequence.block_table[index]
        return any(block in s.block_table for s in self.sequences if s is not sequence)

    def has_invalid_content(self, sequence: Sequence) -> bool:
        """Return whether the context is invalid; assert that a valid one is the own tokens."""
        for position in range(sequence.num_computed_tokens):
            content = self.slots[self.slot(sequence, position)]
            if content == INVALID:
                return True
            assert content == tuple(sequence.token_ids[: position + 1])
        return False

    def check(self) -> None:
        self.manager.check_integrity(self.sequences)
        held = {block for sequence in self.sequences for block in sequence.block_table}
        cached = (block for block in range(NUM_BLOCKS) if block in self.manager.prefix_cache)
        for block in set(cached) - held:
            assert INVALID not in self.slots[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]

    def slot(self, sequence: Sequence, position: int) -> int:
        block = sequence.block_table[position // BLOCK_SIZE]
        return block * BLOCK_SIZE + position % BLOCK_SIZE


def test_random_traffic_loses_overwrites_and_confuses_no_block() -> None:
    random = Random(0)
    pool = Pool(random)
    operations: list[Callable[[], None]] = [
        *[pool.add] * 3,
        *[pool.allocate] * 12,
        *[pool.compute] * 12,
        *[pool.append] * 4,
        *[pool.fork] * 4,
        *[pool.free] * 2,
        pool.preempt,
    ]
    for _ in range(NUM_OPERATIONS):
        random.choice(operations)()
        pool.check()
    assert pool.manager.num_prefix_hit_tokens > 10_000
    assert pool.num_copies > 500
    assert pool.num_refusals > 1_000
    assert pool.num_allocated > 1_000
    for sequence in pool.sequences:
        pool.manager.free(sequence)
    pool.manager.check_integrity([])
    assert pool.manager.num_free_blocks == NUM_BLOCKS
