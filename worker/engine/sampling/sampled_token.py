"""A token that was sampled for a row, or the reason why there is none."""

import math
from dataclasses import dataclass, replace

import torch

from worker.engine.outputs import FailureCause
from worker.engine.sampling.logits_processors.base import SequenceViews
from worker.engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The next token of a row; log-probabilities are under the processed scores."""

    token_id: int
    logprob: float | None = None  # where `logprobs` is on
    top_logprobs: dict[int, float] | None = None  # where `top_logprobs` is above 0; best first


@dataclass(frozen=True, slots=True)
class SamplingFailure:
    """Why a row has no next token."""

    reason: str
    cause: FailureCause


@dataclass(frozen=True, slots=True)
class CandidateTokens:
    """The tokens that each row may get, with their scores."""

    scores: torch.Tensor  # processed, float32 [n, width]
    token_ids: torch.Tensor | None = None  # int64 [n, width]; None: column i is token i

    def select(
        self, rows: list[int], columns: torch.Tensor, sequences: SequenceViews
    ) -> list[SampledToken]:
        """Return the token in `columns` int64 [len(rows)] for each of `rows`."""
        tokens = columns if self.token_ids is None else self.token_ids[rows, columns]
        selected = zip(tokens.tolist(), rows, columns.tolist(), sequences, strict=True)
        return [
            self._with_logprobs(token_id, row, column, sequence.params)
            if sequence.params.wants_logprobs and not sequence.params.raw_logprobs
            else SampledToken(token_id)
            for token_id, row, column, sequence in selected
        ]

    def _with_logprobs(
        self, token_id: int, row: int, column: int, params: SamplingParams
    ) -> SampledToken:
        logprobs = self.scores[row].log_softmax(dim=-1)
        token = logprobs_of(token_id, column, logprobs, params)
        if self.token_ids is None or token.top_logprobs is None:
            return token
        best = {int(self.token_ids[row, c]): value for c, value in token.top_logprobs.items()}
        return replace(token, top_logprobs=best)


def logprobs_of(
    token_id: int, column: int, logprobs: torch.Tensor, params: SamplingParams
) -> SampledToken:
    """Return the token in `column` of one row [width] with the log-probabilities it asks for."""
    logprob = logprobs[column].item()
    is_defined = not math.isnan(logprob)  # nan where every token is banned
    return SampledToken(
        token_id,
        logprob if params.logprobs and is_defined else None,
        top_columns(logprobs, params.top_logprobs) if params.top_logprobs else None,
    )


def top_columns(logprobs: torch.Tensor, count: int) -> dict[int, float]:
    """Return the likeliest columns of one row [width], best first, without banned tokens."""
    best = logprobs.topk(min(count, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {column: logprob for column, logprob in pairs if logprob > -torch.inf}
