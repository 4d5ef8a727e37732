"""The tokens of one job as the engine makes them, and the size of the batches it was part of.

Fed by the runtime on the event loop; knows neither Redis nor what the tokens are for.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shared.protocol import Batch, JobError
from worker.engine import FinishReason, TokenOutput

OnToken = Callable[[TokenOutput], None]


@dataclass(slots=True)
class GeneratedSequence:
    """`logprobs` has one entry per token, None where it was not asked for or is not defined."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    score: float | None = None  # of a beam search

    def append(self, output: TokenOutput) -> None:
        self.texts.append(output.text)
        self.token_ids.append(output.token_id)
        self.logprobs.append(output.logprob)
        if output.top_logprobs is not None:
            self.top_logprobs.append(output.top_logprobs)
        self.finish_reason = output.finish_reason
        self.score = output.score


class Generation:
    """Sets `changed` when every sequence has ended or the request failed, then with `error`."""

    def __init__(
        self, num_sequences: int, changed: asyncio.Event, on_token: OnToken | None = None
    ) -> None:
        self.sequences = [GeneratedSequence() for _ in range(num_sequences)]
        self.error: JobError | None = None
        self._changed = changed
        self._on_token = on_token
        self._num_unfinished = num_sequences
        self._num_steps = 0
        self._sum_rows = 0
        self._max_rows = 0

    def resume(self, earlier: Iterable[TokenOutput]) -> None:
        """Begin with the tokens of an earlier attempt, which were told then."""
        for output in earlier:
            self._append(output)

    def take(self, outputs: list[TokenOutput], rows: int) -> None:
        """One step's tokens of this request; `rows` were in the step in all."""
        self._num_steps += 1
        self._sum_rows += rows
        self._max_rows = max(self._max_rows, rows)
        for output in outputs:
            self._append(output)
            if self._on_token is not None:
                self._on_token(output)
        if self.is_done:
            self._changed.set()

    def _append(self, output: TokenOutput) -> None:
        self.sequences[output.sequence].append(output)
        self._num_unfinished -= output.finish_reason is not None

    def fail(self, error: JobError) -> None:
        self.error = error
        self._changed.set()

    @property
    def is_streamed(self) -> bool:
        return self._on_token is not None

    @property
    def is_done(self) -> bool:
        return self._num_unfinished == 0 or self.error is not None

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence.token_ids) for sequence in self.sequences)

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """Of each sequence, so far."""
        return tuple(tuple(sequence.token_ids) for sequence in self.sequences)

    @property
    def batch(self) -> Batch | None:
        """None before its first step."""
        if self._num_steps == 0:
            return None
        return Batch(mean_rows=self._sum_rows / self._num_steps, max_rows=self._max_rows)
