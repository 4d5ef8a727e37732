"""Chooses the next token of each row from its logits.

Rows whose requests need the same processors go through them together, whatever their values.
Owns no state: a draw depends on the row's logits, parameters, seed and length alone, never on the
batch it is in.
"""

import math
from dataclasses import dataclass

import torch

from worker.engine.outputs import Blame
from worker.engine.params import SamplingParams
from worker.engine.philox import uniforms
from worker.engine.processors import process
from worker.engine.sequence import Sequence

INVALID_LOGITS = "the model's logits contain nan or inf; remove_invalid_values would repair them"
NOTHING_TO_SAMPLE = (
    "no token can be sampled: the parameters ban every token or make the scores infinite"
)


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


@torch.inference_mode()
def choose_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[Choice | NoChoice]:
    """The next token of each sequence from float32 `logits` [n, vocab]; never raises for one row.

    A row with nan or inf has no choice, unless its request repairs them; its neighbours do.
    """
    if not sequences:
        return []
    problems = _find_invalid(logits, sequences)
    scores = process(logits.clone(), sequences)
    problems |= _find_unsampleable(scores, sequences, problems)
    drawn = _draw(scores, sequences).tolist()
    best = scores.argmax(dim=-1).tolist()
    return [
        problems.get(row)
        or _report(drawn[row] if s.params.do_sample else best[row], scores[row], s.params)
        for row, s in enumerate(sequences)
    ]


def _find_invalid(scores: torch.Tensor, sequences: list[Sequence]) -> dict[int, NoChoice]:
    """Rows with nan or +inf that nobody will repair."""
    return {
        row: NoChoice(INVALID_LOGITS, Blame.MODEL)
        for row, best in enumerate(scores.amax(dim=-1).tolist())
        if not best < torch.inf and not sequences[row].params.remove_invalid_values
    }


def _find_unsampleable(
    scores: torch.Tensor, sequences: list[Sequence], known: dict[int, NoChoice]
) -> dict[int, NoChoice]:
    """Rows whose processed scores form no distribution."""
    is_finite = scores.amax(dim=-1).isfinite().tolist()
    return {
        row: NoChoice(NOTHING_TO_SAMPLE, Blame.PARAMETERS)
        for row in range(len(scores))
        if not is_finite[row] and sequences[row].params.do_sample and row not in known
    }


def _draw(scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Draw from softmax(`scores`) by inverse CDF in the order of token ids; int64 [n].

    In float64, where tokens that were ruled out add exactly nothing: the draw depends on the
    tokens that are left alone. A row that is no distribution gets any valid id.
    """
    uniform = uniforms(
        [sequence.params.seed for sequence in sequences],
        [sequence.index for sequence in sequences],
        [sequence.num_generated_tokens for sequence in sequences],
    )
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    # At most (1 - 2**-53) of the total, which rounds to less than it: some column exceeds that.
    target = torch.from_numpy(uniform).to(scores.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return drawn.clamp(max=scores.shape[1] - 1)


def _report(token_id: int, scores: torch.Tensor, params: SamplingParams) -> Choice:
    """One row's choice with the log-probabilities that its request asked for."""
    if not params.logprobs and not params.top_logprobs:
        return Choice(token_id)
    logprobs = scores.log_softmax(dim=-1)
    logprob = logprobs[token_id].item()
    return Choice(
        token_id,
        logprob if params.logprobs and not math.isnan(logprob) else None,
        _best(logprobs, params.top_logprobs) if params.top_logprobs else None,
    )


def _best(logprobs: torch.Tensor, count: int) -> dict[int, float]:
    """The likeliest tokens of one row, best first, without those that were ruled out."""
    best = logprobs.topk(min(count, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {token_id: logprob for token_id, logprob in pairs if logprob > -torch.inf}
