"""The plan of one step, from the scheduler to the runner: a chunk of tokens per sequence."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from worker.engine.sequence import Sequence
from worker.engine.sequence_group import SequenceGroup


class BlockCopy(NamedTuple):
    """A copy of a block's keys and values, to be made before the step computes anything."""

    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `start + num_tokens` of a sequence; all before them are computed."""

    group: SequenceGroup
    sequence: Sequence  # of the group
    start: int
    num_tokens: int  # with the drafts
    block_copy: BlockCopy | None = None  # of a shared block that the chunk writes to
    drafts: tuple[int, ...] = ()  # proposed tokens after the last one of the sequence

    @property
    def token_ids(self) -> list[int]:
        return [*self.sequence.token_ids[self.start : self.end], *self.drafts]

    @property
    def end(self) -> int:
        """Return the tokens of the sequence in the KV cache once this chunk is computed."""
        return self.start + self.num_tokens - len(self.drafts)

    @property
    def context_len(self) -> int:
        """Return `end` with the drafts: they stay in the KV cache until overwritten."""
        return self.start + self.num_tokens

    @property
    def yields_token(self) -> bool:
        """Return whether the chunk ends with the sequence, so that a token is sampled."""
        return self.end == self.sequence.num_tokens

    @property
    def num_sampled(self) -> int:
        """Return the tokens to sample: one, and one more after each draft; 0 in mid-prompt."""
        return 1 + len(self.drafts) if self.yields_token else 0

    @property
    def sampled(self) -> list[Sequence]:
        """Return the sequences to sample for: itself, and itself with each prefix of the drafts."""
        drafted = (self.sequence.extended_by(self.drafts[:n]) for n in range(1, self.num_sampled))
        return [self.sequence, *drafted]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass; an empty plan means that there is nothing to do."""

    chunks: tuple[Chunk, ...]  # chunks of a group are adjacent, in the order of its sequences

    def __bool__(self) -> bool:
        return bool(self.chunks)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def block_copies(self) -> list[BlockCopy]:
        """Return the copies to make before the forward pass. A repeated step may make them again.

        No destination is a source, and the sequences write only after the copied tokens.
        """
        return [chunk.block_copy for chunk in self.chunks if chunk.block_copy is not None]

    @property
    def sampled_chunks(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.yields_token]

    @property
    def sampled(self) -> list[Sequence]:
        """Return the sequences that tokens are sampled for, in the order of the logits."""
        return [sequence for chunk in self.sampled_chunks for sequence in chunk.sampled]

    @property
    def sampled_groups(self) -> list[SequenceGroup]:
        """Return the groups that get tokens, each once, in the order of the logits."""
        return list(dict.fromkeys(chunk.group for chunk in self.sampled_chunks))

    @property
    def has_drafts(self) -> bool:
        return any(chunk.drafts for chunk in self.chunks)

    @property
    def groups(self) -> list[SequenceGroup]:
        return list(dict.fromkeys(chunk.group for chunk in self.chunks))

    def without_drafts(self) -> "StepPlan":
        """Return the same plan without drafts."""
        return StepPlan(
            tuple(replace(c, drafts=(), num_tokens=c.end - c.start) for c in self.chunks)
        )

    def only(self, groups: list[SequenceGroup]) -> "StepPlan":
        """Return the chunks of some groups."""
        return StepPlan(tuple(chunk for chunk in self.chunks if chunk.group in groups))

    def halves(self) -> tuple["StepPlan", "StepPlan"]:
        """Split the plan in two, by groups, to isolate the group that makes a step fail."""
        groups = self.groups
        middle = len(groups) // 2
        return self.only(groups[:middle]), self.only(groups[middle:])
