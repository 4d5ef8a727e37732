"""Processors that change scores: repetition, biases, length decay, repair, normalization."""

import math

import numpy as np
import torch

from worker.engine.sampling.logits_processors.base import (
    InPlaceProcessor,
    RowProcessor,
    SequenceView,
    SequenceViews,
    per_row,
    score_indices,
)
from worker.engine.sampling.token_sequences import TokenSequenceIndex
from worker.engine.sampling_params import SamplingParams


class RepetitionPenalty(InPlaceProcessor):
    """Penalize every token that the sequence holds, prompt included (Keskar et al. 2019)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.repetition_penalty != 1.0

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        indices = score_indices(scores, rows, [s.history.distinct(s.token_ids) for s in sequences])
        penalty = per_row(scores, (s.params.repetition_penalty for s in sequences))[
            indices.sequences, 0
        ]
        seen = scores[indices.rows, indices.token_ids]
        penalized = torch.where(seen < 0, seen * penalty, seen / penalty)
        scores[indices.rows, indices.token_ids] = penalized


class GeneratedTokenPenalties(InPlaceProcessor):
    """Subtract from generated tokens: a penalty for each occurrence, and one for any, as vLLM."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.frequency_penalty != 0.0 or params.presence_penalty != 0.0

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        counts = [s.history.counts(s.token_ids, s.num_prompt_tokens) for s in sequences]
        indices = score_indices(scores, rows, [list(count) for count in counts])
        numbers = np.array([n for count in counts for n in count.values()], dtype=np.float32)
        frequency = per_row(scores, (s.params.frequency_penalty for s in sequences))
        presence = per_row(scores, (s.params.presence_penalty for s in sequences))
        penalized = scores[indices.rows, indices.token_ids]
        penalized -= frequency[indices.sequences, 0] * torch.from_numpy(numbers).to(scores.device)
        penalized -= presence[indices.sequences, 0]
        scores[indices.rows, indices.token_ids] = penalized


class SequenceBias(InPlaceProcessor):
    """Add a bias to the token that would complete one of the given token sequences."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.sequence_bias)

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        found = [s.pipeline.biased_sequences.completions(s.token_ids) for s in sequences]
        indices = score_indices(scores, rows, [completions.token_ids for completions in found])
        biases = np.concatenate([completions.biases for completions in found])
        scores[indices.rows, indices.token_ids] += torch.from_numpy(biases).to(scores.device)


def biased_sequences(params: SamplingParams) -> TokenSequenceIndex:
    """Index `sequence_bias`; of a sequence given twice the last bias counts."""
    return TokenSequenceIndex(dict(params.sequence_bias))


class ExponentialDecayLengthPenalty(InPlaceProcessor):
    """Add `|eos score| * (factor ** n - 1)` to eos, n tokens past the start length."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.exponential_decay_length_penalty is not None and bool(params.eos_token_ids)

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        indices = score_indices(
            scores, rows, [tuple(set(s.params.eos_token_ids)) for s in sequences]
        )
        growth = per_row(scores, map(_decay_growth, sequences))[indices.sequences, 0]
        eos = scores[indices.rows, indices.token_ids]
        penalty = (eos.abs() * growth).masked_fill(~eos.isfinite(), 0.0)
        scores[indices.rows, indices.token_ids] = eos + penalty


class RemoveInvalidValues(InPlaceProcessor):
    """Replace nan by 0, and ±inf, also from earlier bans, by the largest and smallest number."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.remove_invalid_values

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        for row in rows:
            scores[row].nan_to_num_(nan=0.0)


class Renormalize(RowProcessor):
    """Turn the scores into log-probabilities; always last."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.renormalize_logits

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        return scores.log_softmax(dim=-1)


def _decay_growth(sequence: SequenceView) -> float:
    """Return the share of |eos score| to add: `factor ** n - 1`, 0 before the penalty starts."""
    assert sequence.params.exponential_decay_length_penalty is not None
    start, factor = sequence.params.exponential_decay_length_penalty
    exponent = sequence.num_generated_tokens - start
    if exponent <= 0:
        return 0.0
    try:
        return math.pow(factor, exponent) - 1
    except OverflowError:
        return math.inf
