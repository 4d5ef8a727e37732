"""Processors that raise or lower the scores of tokens: repetition, biases, length decay."""

import math

import torch

from worker.engine.params import SamplingParams
from worker.engine.processors.base import Processor, entries, per_row
from worker.engine.sequence import Sequence
from worker.engine.word_index import WordIndex


class RepetitionPenalty(Processor):
    """Lower the score of every token the sequence holds, prompt included (Keskar et al. 2019)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.repetition_penalty != 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        rows, token_ids = entries(scores, sequences, lambda sequence: set(sequence.token_ids))
        penalty = per_row(scores, (s.params.repetition_penalty for s in sequences))[rows, 0]
        seen = scores[rows, token_ids]
        scores[rows, token_ids] = torch.where(seen < 0, seen * penalty, seen / penalty)
        return scores


class SequenceBias(Processor):
    """Add a bias to the token that would complete one of the given token sequences."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.sequence_bias)

    def words(self, params: SamplingParams) -> WordIndex:
        return params.biased_words

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        completions = [
            (row, completion.token_id, completion.bias)
            for row, sequence in enumerate(sequences)
            for completion in self.words(sequence.params).completions(sequence.token_ids)
        ]
        if not completions:
            return scores
        rows, token_ids, values = (
            torch.tensor(column, device=scores.device) for column in zip(*completions, strict=True)
        )
        bias = torch.zeros_like(scores)
        bias.index_put_((rows, token_ids), values.to(scores.dtype), accumulate=True)
        return scores + bias


class BadWords(SequenceBias):
    """Never complete one of the given token sequences."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.bad_words_ids)

    def words(self, params: SamplingParams) -> WordIndex:
        return params.banned_words


class ExponentialDecayLengthPenalty(Processor):
    """Raise eos by `factor ** n` once the continuation is n tokens past its start length."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.exponential_decay_length_penalty is not None and bool(params.eos_token_ids)

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        rows, token_ids = entries(scores, sequences, lambda s: set(s.params.eos_token_ids))
        growth = per_row(scores, map(_decay_growth, sequences))[rows, 0]
        eos = scores[rows, token_ids]
        penalty = (eos.abs() * growth).masked_fill(~eos.isfinite(), 0.0)
        scores[rows, token_ids] = eos + penalty
        return scores


def _decay_growth(sequence: Sequence) -> float:
    """How much of |eos score| is added: `factor ** n - 1`, 0 before the penalty starts."""
    assert sequence.params.exponential_decay_length_penalty is not None
    start, factor = sequence.params.exponential_decay_length_penalty
    exponent = sequence.num_generated_tokens - start
    if exponent <= 0:
        return 0.0
    try:
        return math.pow(factor, exponent) - 1
    except OverflowError:
        return math.inf
