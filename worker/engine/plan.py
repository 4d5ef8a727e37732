"""What one step computes: a chunk of tokens per sequence. Plain data from scheduler to runner."""

from dataclasses import dataclass
from typing import NamedTuple

from worker.engine.group import SequenceGroup
from worker.engine.sequence import Sequence


class BlockCopy(NamedTuple):
    """Keys and values of all layers that must be copied before a step computes anything."""

    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `start + num_tokens` of a group's member, all before them being computed.

    `block_copy` gives the sequence its own copy of a block that it shared and will now write to.
    """

    group: SequenceGroup
    sequence: Sequence
    start: int
    num_tokens: int
    block_copy: BlockCopy | None = None

    @property
    def token_ids(self) -> list[int]:
        return self.sequence.token_ids[self.start : self.context_len]

    @property
    def context_len(self) -> int:
        """Tokens of the sequence in the KV cache once this chunk is computed."""
        return self.start + self.num_tokens

    @property
    def yields_token(self) -> bool:
        """Whether the chunk reaches the sequence's last token, so that the next one follows."""
        return self.context_len == self.sequence.num_tokens


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass; an empty plan means that there is nothing to do.

    The chunks of a group follow each other, in the order of its sequences.
    """

    chunks: tuple[Chunk, ...]

    def __bool__(self) -> bool:
        return bool(self.chunks)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def block_copies(self) -> list[BlockCopy]:
        """To be made before the forward pass; to make them again before running again is safe.

        No destination is a source, and the blocks' holders write only behind what is copied.
        """
        return [chunk.block_copy for chunk in self.chunks if chunk.block_copy is not None]

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get their next token from this step, in the order of the logits."""
        return [chunk.sequence for chunk in self.chunks if chunk.yields_token]

    @property
    def sampled_groups(self) -> list[SequenceGroup]:
        """The groups of `sampled`, each once and with all its sequences, in the same order."""
        return list(dict.fromkeys(chunk.group for chunk in self.chunks if chunk.yields_token))

    @property
    def groups(self) -> list[SequenceGroup]:
        return list(dict.fromkeys(chunk.group for chunk in self.chunks))

    def only(self, groups: list[SequenceGroup]) -> "StepPlan":
        """What the plan computes for some of its groups."""
        return StepPlan(tuple(chunk for chunk in self.chunks if chunk.group in groups))

    def halves(self) -> tuple["StepPlan", "StepPlan"]:
        """The same work in two steps: how a failing forward pass finds the group to blame."""
        groups = self.groups
        middle = len(groups) // 2
        return self.only(groups[:middle]), self.only(groups[middle:])
