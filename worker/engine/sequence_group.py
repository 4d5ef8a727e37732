"""Sequences that take every step together: one alone, or the beams of a search.

Plain Python; knows nothing of blocks, queues or how a search chooses.
"""

from dataclasses import dataclass
from enum import Enum, auto

from worker.engine.sequence import Sequence


class GroupStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class SequenceGroup:
    """What the scheduler admits, runs and sends back as a whole; all of one request.

    A sampled or greedy sequence is a group of one. A beam search is a group of up to `num_rows`
    sequences: one that computes the prompt, then those that `Scheduler.replace` puts in its place.
    All of them get their next tokens in the same step, or none does.
    """

    sequences: list[Sequence]
    num_rows: int = 1
    status: GroupStatus = GroupStatus.WAITING

    @property
    def request_id(self) -> str:
        return self.sequences[0].request_id

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: the smaller rank."""
        return self.sequences[0].rank

    def due(self) -> list[tuple[Sequence, int]]:
        """Who computes in the next step, and at most how many tokens each.

        In step, beams compute their one last token each. After a preemption they catch up first,
        up to it and one after the other, so that each finds in the prefix cache what it has in
        common with those before it.
        """
        if len(self.sequences) == 1:
            [sequence] = self.sequences
            return [(sequence, sequence.num_uncomputed_tokens)]
        for sequence in self.sequences:
            if sequence.num_uncomputed_tokens > 1:
                return [(sequence, sequence.num_uncomputed_tokens - 1)]
        return [(sequence, 1) for sequence in self.sequences]

    def max_blocks(self, block_size: int) -> int:
        """Blocks it may ever hold at once: the prompt's full ones are shared, all others are not.

        The last token of a sequence is never computed.
        """
        first = self.sequences[0]
        num_shared = first.num_prompt_tokens // block_size
        num_blocks = -(-(first.max_length - 1) // block_size)
        return num_shared + self.num_rows * (num_blocks - num_shared)
