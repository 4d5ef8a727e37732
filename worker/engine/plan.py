"""What one step computes: a chunk of tokens per sequence. Plain data from scheduler to runner."""

from dataclasses import dataclass

from worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `start + num_tokens` of a sequence, all before them being computed."""

    sequence: Sequence
    start: int
    num_tokens: int

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
    """One forward pass; an empty plan means that there is nothing to do."""

    chunks: tuple[Chunk, ...]

    def __bool__(self) -> bool:
        return bool(self.chunks)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get their next token from this step, in the order of the logits."""
        return [chunk.sequence for chunk in self.chunks if chunk.yields_token]

    def halves(self) -> tuple["StepPlan", "StepPlan"]:
        """The same work in two steps: how a failing forward pass finds the row to blame."""
        middle = len(self.chunks) // 2
        return StepPlan(self.chunks[:middle]), StepPlan(self.chunks[middle:])
