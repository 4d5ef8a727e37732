"""Sequences that take every step together: one alone, or the beams of a search."""

from dataclasses import dataclass
from enum import Enum, auto

from worker.engine.sequence import Sequence


class GroupStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class SequenceGroup:
    """The unit that the scheduler admits, runs and preempts; its sequences are of one request.

    A sampled or greedy sequence is a group of one. A beam search is one group: first a sequence
    that computes the prompt, then its successors (`Scheduler.replace_sequences`). All sequences
    get their next tokens in the same step, or none does.
    """

    sequences: list[Sequence]
    num_rows: int = 1  # sequences that it may come to have
    status: GroupStatus = GroupStatus.WAITING

    @property
    def request_id(self) -> str:
        return self.sequences[0].request_id

    @property
    def gives_way(self) -> bool:
        return self.sequences[0].request.gives_way

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Return the sort key: the smaller rank runs first."""
        return self.sequences[0].rank

    def next_work(self) -> list[tuple[Sequence, int]]:
        """Return the sequences that compute in the next step, each with the most tokens it may.

        Beams compute one last token each. After a preemption they first catch up to it, one after
        the other, so that each finds the common prefix in the prefix cache.
        """
        if len(self.sequences) == 1:
            [sequence] = self.sequences
            return [(sequence, sequence.num_uncomputed_tokens)]
        for sequence in self.sequences:
            if sequence.num_uncomputed_tokens > 1:
                return [(sequence, sequence.num_uncomputed_tokens - 1)]
        return [(sequence, 1) for sequence in self.sequences]

    def max_blocks(self, block_size: int) -> int:
        """Return the most blocks it may hold at once: full blocks of the prompt are shared.

        The last token of a sequence is never computed.
        """
        first = self.sequences[0]
        num_shared = first.num_prompt_tokens // block_size
        num_blocks = -(-(first.max_length - 1) // block_size)
        return num_shared + self.num_rows * (num_blocks - num_shared)
