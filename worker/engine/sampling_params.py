"""The generation parameters of one request, as the engine sees them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Fields that transformers' `GenerationConfig` has too mean the same.

    A default switches its processor off.
    """

    max_new_tokens: int = 20
    min_length: int = 0  # in tokens, with the prompt
    min_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    include_stop: bool = True  # in the text; else a stop string must lie in the new text
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
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
    grammar: str | None = None  # of llguidance, which the text must follow up to its eos

    prompt_lookup_num_tokens: int | None = None  # None: the engine's default, 0: off
    max_matching_ngram_size: int = 2

    logprobs: bool = False
    top_logprobs: int = 0
    raw_logprobs: bool = False  # of the model's own logits; no beams
    prompt_logprobs: int | None = None  # the likeliest tokens to report; no beams

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs or self.top_logprobs > 0

    @property
    def min_tokens_to_keep(self) -> int:
        """Return the least tokens that warpers keep: a beam continues by one besides every eos."""
        if self.num_beams == 1:
            return 1
        return 1 + (len(self.eos_token_ids) or 1)

    @property
    def num_candidates(self) -> int | None:
        """Return `top_k`, but at least `min_tokens_to_keep`; None if top-k is off."""
        return max(self.top_k, self.min_tokens_to_keep) if self.top_k else None
