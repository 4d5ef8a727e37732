"""The plan of one step, from the scheduler to the runner: a chunk of tokens per sequence."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from worker.engine.grammar.grammars import ConstrainedOutput
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.sequence import Sequence


class BlockCopy(NamedTuple):
    """A copy of a block's keys and values, to be made before the step computes anything."""

    source: int
    destination: int


@dataclass(slots=True)  # a frozen object takes three times as long to make
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
        return self.start + self.num_tokens == len(self.sequence.token_ids) + len(self.drafts)

    @property
    def num_sampled(self) -> int:
        """Return the tokens to sample: one, and one more after each draft; 0 in mid-prompt."""
        return 1 + len(self.drafts) if self.yields_token else 0

    @property
    def num_scored(self) -> int:
        """Return the first tokens whose logits score the next token of the prompt."""
        sequence = self.sequence
        if not sequence.scores_prompt:
            return 0
        return max(0, min(self.end, sequence.num_prompt_tokens - 1) - self.start)

    @property
    def sampled(self) -> list[Sequence]:
        """Return the sequences to sample for: itself, and itself with each prefix of the drafts."""
        drafted = (self.sequence.extended_by(self.drafts[: n + 1]) for n in range(len(self.drafts)))
        return [self.sequence, *drafted]

    @property
    def takes_drafts(self) -> bool:
        """Return whether a token is sampled and the proposer of the sequence is past its pause."""
        proposer = self.sequence.proposer
        return proposer is not None and self.yields_token and proposer.is_ready(self.end)

    def with_drafts(self, limit: int, block_size: int) -> "Chunk":
        """Add up to `limit` drafts, as far as the blocks of the sequence reach.

        Drafts therefore never preempt a group or evict a block. The last token of a sequence is
        sampled and never computed, so drafts end before it.
        """
        sequence = self.sequence
        assert sequence.proposer is not None
        num_slots = len(sequence.block_table) * block_size - sequence.num_tokens
        num_wanted = sequence.max_length - 1 - sequence.num_tokens
        drafts = sequence.proposer.propose(sequence.token_ids, min(limit, num_slots, num_wanted))
        return replace(self, drafts=tuple(drafts), num_tokens=self.num_tokens + len(drafts))


@dataclass(frozen=True)
class StepPlan:
    """One forward pass; an empty plan means that there is nothing to do.

    Properties that look at each chunk do so once. They describe the sequences before the step's
    tokens are appended.
    """

    chunks: tuple[Chunk, ...]  # chunks of a group are adjacent, in the order of its sequences

    def __bool__(self) -> bool:
        return bool(self.chunks)

    @cached_property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @cached_property
    def only_decodes(self) -> bool:
        """Return whether each chunk is one token that yields the next: no prompt, no draft."""
        return self.num_tokens == len(self.chunks) == len(self.sampled_chunks)

    @property
    def block_copies(self) -> list[BlockCopy]:
        """Return the copies to make before the forward pass. A repeated step may make them again.

        No destination is a source, and the sequences write only after the copied tokens.
        """
        return [chunk.block_copy for chunk in self.chunks if chunk.block_copy is not None]

    @cached_property
    def sampled_chunks(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.yields_token]

    @property
    def sampled(self) -> list[Sequence]:
        """Return the sequences that tokens are sampled for, in the order of the logits."""
        return [sequence for chunk in self.sampled_chunks for sequence in chunk.sampled]

    @cached_property
    def sampled_groups(self) -> list[SequenceGroup]:
        """Return the groups that get tokens, each once, in the order of the logits."""
        return list(dict.fromkeys(chunk.group for chunk in self.sampled_chunks))

    @property
    def constrained_outputs(self) -> Iterator[ConstrainedOutput]:
        """Yield the outputs that a grammar constrains, each with its drafts."""
        for chunk in self.sampled_chunks:
            sequence = chunk.sequence
            if sequence.constraint is not None:
                yield sequence.constraint, sequence.generated_token_ids, chunk.drafts

    @property
    def scores_prompts(self) -> bool:
        """Return whether the logits of a chunk begin with rows that score its prompt."""
        return not self.only_decodes and any(chunk.num_scored for chunk in self.chunks)

    @property
    def has_drafts(self) -> bool:
        return any(chunk.drafts for chunk in self.chunks)

    @property
    def groups(self) -> list[SequenceGroup]:
        return list(dict.fromkeys(chunk.group for chunk in self.chunks))

    def with_drafts(self, *, max_tokens: int, block_size: int) -> "StepPlan":
        """Add drafts, up to `max_tokens` tokens in all.

        A step of few tokens takes about as long as a step of one token, because reading the weights
        dominates. Each chunk that takes drafts gets an equal share of the rest of the budget.
        """
        num_left = max_tokens - self.num_tokens
        if num_left <= 0:
            return self
        num_drafting = sum(chunk.takes_drafts for chunk in self.chunks)
        if num_drafting == 0:
            return self
        chunks = []
        for chunk in self.chunks:
            if chunk.takes_drafts:
                chunk = chunk.with_drafts(num_left // num_drafting, block_size)
                num_left -= len(chunk.drafts)
                num_drafting -= 1
            chunks.append(chunk)
        return StepPlan(tuple(chunks))

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
