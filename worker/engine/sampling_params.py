"""How one request wants its tokens chosen: the engine's own view of the generation parameters.

Knows nothing of HTTP or JSON; values arrive validated, from the wire by `worker/jobs/conversion.py`.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from worker.engine.sampling.token_sequences import WordIndex


@dataclass(frozen=True, kw_only=True)  # no slots: they leave no room for cached properties
class SamplingParams:
    """Semantics of each field are those of transformers' `GenerationConfig`, one unpadded prompt.

    `None` and the neutral value (1.0, 0) both switch a field off. Lengths count tokens;
    `min_length` counts the prompt, `max_new_tokens` and `min_new_tokens` do not.
    """

    max_new_tokens: int = 20
    min_length: int = 0
    min_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    pad_token_id: int | None = None  # diverse beams only; None stands for the first eos

    do_sample: bool = False
    num_return_sequences: int = 1
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0

    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False

    prompt_lookup_num_tokens: int | None = None  # None: as the engine has it, 0: off
    max_matching_ngram_size: int = 2

    logprobs: bool = False
    top_logprobs: int = 0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs or self.top_logprobs > 0

    @property
    def min_tokens_to_keep(self) -> int:
        """Tokens that warpers leave at least: beams need one beside every eos to go on with."""
        if self.num_beams == 1:
            return 1
        return 1 + (len(self.eos_token_ids) or 1)

    @property
    def num_candidates(self) -> int | None:
        """`top_k`, or as many as must be kept where that is more; None where it is off."""
        return max(self.top_k, self.min_tokens_to_keep) if self.top_k else None

    @cached_property
    def biased_words(self) -> WordIndex:
        """`sequence_bias`; of a word given twice the last bias counts."""
        return WordIndex(dict(self.sequence_bias))

    @cached_property
    def banned_words(self) -> WordIndex:
        """`bad_words_ids`; an eos alone is no bad word."""
        allowed = {(eos,) for eos in self.eos_token_ids}
        return WordIndex({word: -math.inf for word in self.bad_words_ids if word not in allowed})
