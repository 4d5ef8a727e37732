"""Processors that forbid tokens: repetitions, bad words, suppressed tokens, all but one."""

import math
from collections.abc import Collection
from functools import cache

import numpy as np
import torch

from worker.engine.grammar.output_constraint import Mask
from worker.engine.sampling.logits_processors.base import (
    Ban,
    InPlaceProcessor,
    SequenceView,
    SequenceViews,
    score_indices,
)
from worker.engine.sampling.token_sequences import TokenSequenceIndex
from worker.engine.sampling_params import SamplingParams

CACHED_SCORES = 16_384


class NoRepeatNgram(Ban):
    """Forbid to repeat an n-gram of the sequence, prompt included."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.no_repeat_ngram_size > 0

    def banned(self, sequence: SequenceView) -> Collection[int]:
        size = sequence.params.no_repeat_ngram_size
        return sequence.history.repeating(sequence.token_ids, size)


class EncoderNoRepeatNgram(Ban):
    """Forbid to repeat an n-gram of the prompt."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.encoder_no_repeat_ngram_size > 0

    def banned(self, sequence: SequenceView) -> Collection[int]:
        size = sequence.params.encoder_no_repeat_ngram_size
        prompt_length = sequence.num_prompt_tokens
        return sequence.history.repeating_prompt(sequence.token_ids, prompt_length, size)


class MinLength(Ban):
    """Forbid eos before `min_new_tokens` or, if that is not given, `min_length`."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.eos_token_ids and (params.min_length or params.min_new_tokens))

    def banned(self, sequence: SequenceView) -> Collection[int]:
        params = sequence.params
        if params.min_new_tokens is None:
            is_short = len(sequence.token_ids) < params.min_length
        else:
            is_short = sequence.num_generated_tokens < params.min_new_tokens
        return params.eos_token_ids if is_short else ()


class BadWords(InPlaceProcessor):
    """Forbid the token that would complete one of the given token sequences."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.bad_words_ids)

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        found = [s.pipeline.banned_sequences.completions(s.token_ids) for s in sequences]
        indices = score_indices(scores, rows, [completions.token_ids for completions in found])
        scores[indices.rows, indices.token_ids] += -torch.inf  # added: nan stays nan


class SuppressTokens(Ban):
    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.suppress_tokens)

    def banned(self, sequence: SequenceView) -> Collection[int]:
        return sequence.params.suppress_tokens


class BeginSuppressTokens(Ban):
    """Forbid tokens at the first position, or at the second after a forced bos."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.begin_suppress_tokens)

    def banned(self, sequence: SequenceView) -> Collection[int]:
        params = sequence.params
        bos_is_forced = params.forced_bos_token_id is not None and sequence.num_prompt_tokens == 1
        is_first = sequence.num_generated_tokens == (1 if bos_is_forced else 0)
        return params.begin_suppress_tokens if is_first else ()


class ForcedBos(InPlaceProcessor):
    """Force `forced_bos_token_id` after a prompt of one token."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.forced_bos_token_id is not None

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        for row, sequence in zip(rows, sequences, strict=True):
            token_id = sequence.params.forced_bos_token_id
            if len(sequence.token_ids) == 1 and token_id is not None:
                _leave_only(scores[row], (token_id,))


class ForcedEos(InPlaceProcessor):
    """Force one of `forced_eos_token_ids` as the last token of a sequence of full length."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.forced_eos_token_ids)

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        for row, sequence in zip(rows, sequences, strict=True):
            if sequence.num_generated_tokens == sequence.params.max_new_tokens - 1:
                _leave_only(scores[row], sequence.params.forced_eos_token_ids)


class Grammar(InPlaceProcessor):
    """Forbid tokens with which the text could no longer follow its grammar; always last."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.grammar is not None

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        """Work on few rows at a time on a CPU, whose caches hold no large matrix of penalties."""
        masks = [s.constraint.mask(s.generated_token_ids) for s in sequences if s.constraint]
        is_cpu = scores.device.type == "cpu"
        size = max(1, CACHED_SCORES // scores.shape[1]) if is_cpu else len(rows)
        for start in range(0, len(rows), size):
            part = torch.tensor(rows[start : start + size], device=scores.device)
            banned = penalties(np.stack(masks[start : start + size]), scores)
            scores.index_add_(0, part, banned)


def penalties(masks: Mask, scores: torch.Tensor) -> torch.Tensor:
    """Return what to add to `scores`, float32 [n, vocab]: -inf where a bit of a mask is 0."""
    packed = torch.from_numpy(masks.view(np.uint8)).to(scores.device, torch.int64)
    of_bytes = byte_penalties().to(scores.device).index_select(0, packed.flatten())
    return of_bytes.view(masks.size // masks.shape[-1], -1)[:, : scores.shape[1]]


@cache
def byte_penalties() -> torch.Tensor:
    """Return the penalties of 8 tokens by the byte of their mask, float32 [256, 8]: 0 or -inf."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits, 0.0, -np.inf).astype(np.float32))


def banned_sequences(params: SamplingParams) -> TokenSequenceIndex:
    """Index `bad_words_ids` without single eos tokens."""
    allowed = {(eos,) for eos in params.eos_token_ids}
    banned = (token_ids for token_ids in params.bad_words_ids if token_ids not in allowed)
    return TokenSequenceIndex(dict.fromkeys(banned, -math.inf))


def _leave_only(scores: torch.Tensor, token_ids: tuple[int, ...]) -> None:
    """Set one row's scores to 0 for `token_ids` and to -inf for all others."""
    scores.fill_(-torch.inf)
    scores[list(token_ids)] = 0.0
