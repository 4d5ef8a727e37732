"""What one step computes: a chunk of tokens per sequence. Plain data from scheduler to runner."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from worker.engine.sequence import Sequence
from worker.engine.sequence_group import SequenceGroup


class BlockCopy(NamedTuple):
    """Keys and values of all layers that must be copied before a step computes anything."""

    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `start + num_tokens` of a group's member, all before them being computed.

    `block_copy` gives the sequence its own copy of a block that it shared and will now write to.
    `drafts`, which count among the tokens, are guesses at what follows the sequence's last one.
    """

    group: SequenceGroup
    sequence: Sequence
    start: int
    num_tokens: int
    block_copy: BlockCopy | None = None
    drafts: tuple[int, ...] = ()

    @property
    def token_ids(self) -> list[int]:
        return [*self.sequence.token_ids[self.start : self.end], *self.drafts]

    @property
    def end(self) -> int:
        """Tokens of the sequence in the KV cache once this chunk is computed."""
        return self.start + self.num_tokens - len(self.drafts)

    @property
    def context_len(self) -> int:
        """The same with the drafts, which are in the cache until others take their place."""
        return self.start + self.num_tokens

    @property
    def yields_token(self) -> bool:
        """Whether the chunk reaches the sequence's last token, so that the next one follows."""
        return self.end == self.sequence.num_tokens

    @property
    def num_sampled(self) -> int:
        """Next tokens that are chosen, one after each draft and one before, if it yields any."""
        return 1 + len(self.drafts) if self.yields_token else 0

    @property
    def sampled(self) -> list[Sequence]:
        """What they are chosen for: the sequence as it is, and as more and more drafts make it."""
        ahead = (self.sequence.ahead(self.drafts[:n]) for n in range(1, self.num_sampled))
        return [self.sequence, *ahead]


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
    def sampled_chunks(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.yields_token]

    @property
    def sampled(self) -> list[Sequence]:
        """What next tokens are chosen for in this step, in the order of the logits."""
        return [sequence for chunk in self.sampled_chunks for sequence in chunk.sampled]

    @property
    def sampled_groups(self) -> list[SequenceGroup]:
        """The groups that get next tokens, each once and with all its sequences, in that order."""
        return list(dict.fromkeys(chunk.group for chunk in self.sampled_chunks))

    @property
    def has_drafts(self) -> bool:
        return any(chunk.drafts for chunk in self.chunks)

    @property
    def groups(self) -> list[SequenceGroup]:
        return list(dict.fromkeys(chunk.group for chunk in self.chunks))

    def without_drafts(self) -> "StepPlan":
        """The same work without its guesses."""
        return StepPlan(
            tuple(replace(c, drafts=(), num_tokens=c.end - c.start) for c in self.chunks)
        )

    def only(self, groups: list[SequenceGroup]) -> "StepPlan":
        """What the plan computes for some of its groups."""
        return StepPlan(tuple(chunk for chunk in self.chunks if chunk.group in groups))

    def halves(self) -> tuple["StepPlan", "StepPlan"]:
        """The same work in two steps: how a failing forward pass finds the group to blame."""
        groups = self.groups
        middle = len(groups) // 2
        return self.only(groups[:middle]), self.only(groups[middle:])
