"""The values that each generation parameter may have, whatever the model and the other parameters.

A request out of bounds must not reach a step, which others share. The api has the same limits.
"""

import math
from dataclasses import dataclass

from worker.engine.sampling_params import SamplingParams

MAX_INT = 2**31 - 1
MAX_BIAS = 1e20
MAX_SCALE = 1e6  # of what divides logits, or one over it: they stay finite in float32
MAX_LOOKUP_NGRAM = 16  # each size up to it is one more entry per token
MAX_LENGTH_POWER = 20  # no length raised to it, or divided by it, leaves the range of floats


@dataclass(frozen=True, slots=True)
class Limit:
    """An interval of integers, or of floats; `brackets` tell whether its ends belong to it."""

    kind: type[int] | type[float]
    low: float
    high: float = MAX_INT
    brackets: str = "[]"
    may_be_none: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise ValueError, naming field and limit, unless `value` lies within."""
        if value is None and self.may_be_none:
            return
        kinds = int if self.kind is int else int | float
        if not isinstance(value, kinds):
            raise ValueError(f"{name} must be {self.kind.__name__}, not {value!r}")
        above = value > self.low or (self.brackets[0] == "[" and value == self.low)
        below = value < self.high or (self.brackets[1] == "]" and value == self.high)
        if not (above and below):
            interval = f"{self.brackets[0]}{self.low}, {self.high}{self.brackets[1]}"
            raise ValueError(f"{name} must lie in {interval}, not {value}")


AT_LEAST_0, AT_LEAST_1 = Limit(int, 0), Limit(int, 1)
INT_OR_NONE = Limit(int, 0, may_be_none=True)
SCALE = Limit(float, 1 / MAX_SCALE, MAX_SCALE)

LIMITS = {
    "max_new_tokens": AT_LEAST_1,
    "min_length": AT_LEAST_0,
    "min_new_tokens": INT_OR_NONE,
    "pad_token_id": INT_OR_NONE,
    "num_return_sequences": AT_LEAST_1,
    "seed": Limit(int, 0, 2**63 - 1),
    "num_beams": AT_LEAST_1,
    "num_beam_groups": AT_LEAST_1,
    "diversity_penalty": Limit(float, -MAX_BIAS, MAX_BIAS),
    "length_penalty": Limit(float, -MAX_LENGTH_POWER, MAX_LENGTH_POWER),
    "repetition_penalty": SCALE,
    "no_repeat_ngram_size": AT_LEAST_0,
    "encoder_no_repeat_ngram_size": AT_LEAST_0,
    "forced_bos_token_id": INT_OR_NONE,
    "prompt_lookup_num_tokens": INT_OR_NONE,
    "max_matching_ngram_size": Limit(int, 1, MAX_LOOKUP_NGRAM),
    "top_logprobs": Limit(int, 0, 20),
}
LIMITS_WHILE_SAMPLING = {  # greedy decoding ignores them
    "temperature": SCALE,
    "top_k": INT_OR_NONE,
    "top_p": Limit(float, 0, 1, "(]"),
    "min_p": Limit(float, 0, 1, may_be_none=True),
    "typical_p": Limit(float, 0, math.inf, "()"),
    "epsilon_cutoff": Limit(float, 0, 1, "[)"),
    "eta_cutoff": Limit(float, 0, 1, "[)"),
}
TUPLES: dict[str, type] = {  # by the type of their items
    "eos_token_ids": int,
    "stop_strings": str,
    "bad_words_ids": tuple,
    "sequence_bias": tuple,
    "suppress_tokens": int,
    "begin_suppress_tokens": int,
    "forced_eos_token_ids": int,
}


def check_values(params: SamplingParams) -> None:
    """Raise ValueError, naming field and limit, for a value of the wrong type or out of bounds."""
    for name, limit in LIMITS.items():
        limit.check(name, getattr(params, name))
    if params.do_sample:
        for name, limit in LIMITS_WHILE_SAMPLING.items():
            limit.check(name, getattr(params, name))
    for name, kind in TUPLES.items():
        _check_tuple(name, getattr(params, name), kind)
    if min(params.eos_token_ids, default=0) < 0:
        raise ValueError(f"eos_token_ids must be at least 0, not {min(params.eos_token_ids)}")
    if "" in params.stop_strings:
        raise ValueError("stop_strings holds an empty string")
    early_stopping: object = params.early_stopping
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f'early_stopping must be True, False or "never", not {early_stopping!r}')


def _check_tuple(name: str, value: object, kind: type) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise ValueError(f"{name} must be a tuple of {kind.__name__}, not {value!r}")
