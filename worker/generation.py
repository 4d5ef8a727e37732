"""Collect the tokens of one job as the engine generates them, and the size of their batches."""

import asyncio
from collections.abc import Callable, Iterable

from shared.protocol import Batch, JobError
from worker.engine import TokenOutput

OnToken = Callable[[TokenOutput], None]


class Generation:
    """Collect the sequences of one request, on the event loop.

    Sets `finished` when every sequence has ended, or when the request failed with `error`.
    """

    def __init__(
        self, num_sequences: int, finished: asyncio.Event, on_token: OnToken | None = None
    ) -> None:
        self.sequences: list[list[TokenOutput]] = [[] for _ in range(num_sequences)]
        self.error: JobError | None = None
        self._finished = finished
        self._on_token = on_token
        self._num_unfinished = num_sequences
        self._num_steps = 0
        self._sum_rows = 0
        self._max_rows = 0

    def resume(self, earlier: Iterable[TokenOutput]) -> None:
        """Start with the tokens of an earlier attempt; `on_token` does not get them again."""
        for output in earlier:
            self._append(output)

    def take_from_other_job(self, outputs: Iterable[TokenOutput]) -> None:
        """Add tokens that another job of the same request generated."""
        self._take(outputs)

    def take(self, outputs: list[TokenOutput], rows: int) -> None:
        """Add this request's tokens of one step; `rows` is the size of the step's batch."""
        self._num_steps += 1
        self._sum_rows += rows
        self._max_rows = max(self._max_rows, rows)
        self._take(outputs)

    def _take(self, outputs: Iterable[TokenOutput]) -> None:
        for output in outputs:
            self._append(output)
            if self._on_token is not None:
                self._on_token(output)
        if self.is_done:
            self._finished.set()

    def _append(self, output: TokenOutput) -> None:
        self.sequences[output.sequence].append(output)
        self._num_unfinished -= output.finish_reason is not None

    def fail(self, error: JobError) -> None:
        self.error = error
        self._finished.set()

    @property
    def is_streamed(self) -> bool:
        return self._on_token is not None

    @property
    def is_done(self) -> bool:
        return self._num_unfinished == 0 or self.error is not None

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of each sequence so far."""
        return tuple(tuple(output.token_id for output in sequence) for sequence in self.sequences)

    @property
    def batch(self) -> Batch | None:
        """Return the batch sizes over all steps; None before the first."""
        if self._num_steps == 0:
            return None
        return Batch(mean_rows=self._sum_rows / self._num_steps, max_rows=self._max_rows)
