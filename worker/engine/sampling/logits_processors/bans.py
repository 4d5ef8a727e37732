"""Processors that forbid tokens: repeated n-grams, suppressed tokens, eos before its time."""

from collections.abc import Collection

from worker.engine.sampling.logits_processors.base import Ban
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence


class NoRepeatNgram(Ban):
    """No n-gram of the sequence, prompt included, comes twice."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.no_repeat_ngram_size > 0

    def banned(self, sequence: Sequence) -> Collection[int]:
        size = sequence.params.no_repeat_ngram_size
        return sequence.history.repeating(sequence.token_ids, size)


class EncoderNoRepeatNgram(Ban):
    """No n-gram of the prompt comes again."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.encoder_no_repeat_ngram_size > 0

    def banned(self, sequence: Sequence) -> Collection[int]:
        prompt, size = (
            sequence.request.prompt_token_ids,
            sequence.params.encoder_no_repeat_ngram_size,
        )
        return sequence.history.repeating_prompt(prompt, sequence.token_ids, size)


class MinLength(Ban):
    """No eos before `min_new_tokens` or, where that is not given, `min_length`."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.eos_token_ids and (params.min_length or params.min_new_tokens))

    def banned(self, sequence: Sequence) -> Collection[int]:
        params = sequence.params
        if params.min_new_tokens is None:
            is_short = sequence.num_tokens < params.min_length
        else:
            is_short = sequence.num_generated_tokens < params.min_new_tokens
        return params.eos_token_ids if is_short else ()


class SuppressTokens(Ban):
    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.suppress_tokens)

    def banned(self, sequence: Sequence) -> Collection[int]:
        return sequence.params.suppress_tokens


class BeginSuppressTokens(Ban):
    """Tokens that may not come first; after a forced bos, first means second."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.begin_suppress_tokens)

    def banned(self, sequence: Sequence) -> Collection[int]:
        params = sequence.params
        bos_is_forced = params.forced_bos_token_id is not None and sequence.num_prompt_tokens == 1
        is_first = sequence.num_generated_tokens == (1 if bos_is_forced else 0)
        return params.begin_suppress_tokens if is_first else ()
