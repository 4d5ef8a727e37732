"""What is chosen for a row, told in tokens and log-probabilities. Knows no way of choosing."""

import math
from dataclasses import dataclass

import torch

from worker.engine.outputs import Blame
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Choice:
    """The next token; log-probabilities under the processed scores where they were asked for."""

    token_id: int
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None


@dataclass(frozen=True, slots=True)
class NoChoice:
    """Why a row has no next token."""

    reason: str
    blame: Blame


@dataclass(frozen=True, slots=True)
class Options:
    """What rows choose from: processed scores float32 [n, width].

    `token_ids` int64 [n, width] are those of the columns; None where column i is token i.
    """

    scores: torch.Tensor
    token_ids: torch.Tensor | None = None

    def choices(
        self, rows: list[int], columns: torch.Tensor, sequences: list[Sequence]
    ) -> list[Choice]:
        """That each of `rows` takes its one of `columns` int64 [len(rows)]."""
        tokens = columns if self.token_ids is None else self.token_ids[rows, columns]
        chosen = zip(tokens.tolist(), rows, columns.tolist(), sequences, strict=True)
        return [
            self._with_logprobs(token_id, row, column, sequence.params)
            if sequence.params.wants_logprobs
            else Choice(token_id)
            for token_id, row, column, sequence in chosen
        ]

    def _with_logprobs(
        self, token_id: int, row: int, column: int, params: SamplingParams
    ) -> Choice:
        logprobs = self.scores[row].log_softmax(dim=-1)
        logprob = logprobs[column].item()
        is_told = params.logprobs and not math.isnan(logprob)  # nan where every token is banned
        best = best_columns(logprobs, params.top_logprobs)
        if self.token_ids is not None:
            best = {int(self.token_ids[row, column]): best[column] for column in best}
        return Choice(token_id, logprob if is_told else None, best if params.top_logprobs else None)


def best_columns(logprobs: torch.Tensor, count: int) -> dict[int, float]:
    """The likeliest of one row [width], best first, without those that were ruled out."""
    best = logprobs.topk(min(count, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {column: logprob for column, logprob in pairs if logprob > -torch.inf}
