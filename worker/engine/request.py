"""A request to the engine, and the checks that keep an invalid one out of the batch."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llguidance import LLMatcher

from shared.request.limits import (
    MAX_BEAM_EOS,
    MAX_BIAS,
    MAX_INT,
    MAX_LENGTH_POWER,
    MAX_LOOKUP_NGRAM,
    MAX_PENALTY,
    MAX_SCALE,
    MAX_SEED,
    MAX_TOP_LOGPROBS,
    MIN_SCALE,
)
from worker.engine.sampling_params import SamplingParams

if TYPE_CHECKING:  # it imports torch; only plain numbers of it are read here
    from worker.model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and how to continue it, `params.num_return_sequences` times."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    # Tokens of sequence i from an earlier attempt. They count as generated, not as prompt (lengths,
    # n-gram bans, seed positions), and are not emitted again.
    generated: tuple[tuple[int, ...], ...] = field(default=())
    priority: int = 0  # higher runs first; equal priorities in order of arrival
    # Of a batch: runs after all others, and adds only `EngineConfig.batch_share` to their steps.
    gives_way: bool = False
    adapter: str | None = None  # of the engine, by name; None: the model itself
    prediction: tuple[int, ...] = ()  # tokens to draft from, as from the prompt
    # Of `params.grammar`, by `Grammars.compile`. Without it, the engine's thread compiles.
    matcher: LLMatcher | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Limit:
    """An interval of integers or floats."""

    kind: type[int] | type[float]
    low: float
    high: float = MAX_INT
    brackets: str = "[]"  # "(" and ")" exclude an end
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
SCALE = Limit(float, MIN_SCALE, MAX_SCALE)


LIMITS = {
    "max_new_tokens": AT_LEAST_1,
    "min_length": AT_LEAST_0,
    "min_new_tokens": INT_OR_NONE,
    "pad_token_id": INT_OR_NONE,
    "num_return_sequences": AT_LEAST_1,
    "seed": Limit(int, 0, MAX_SEED),
    "num_beams": AT_LEAST_1,
    "num_beam_groups": AT_LEAST_1,
    "diversity_penalty": Limit(float, -MAX_BIAS, MAX_BIAS),
    "length_penalty": Limit(float, -MAX_LENGTH_POWER, MAX_LENGTH_POWER),
    "repetition_penalty": SCALE,
    "presence_penalty": Limit(float, -MAX_PENALTY, MAX_PENALTY),
    "frequency_penalty": Limit(float, -MAX_PENALTY, MAX_PENALTY),
    "no_repeat_ngram_size": AT_LEAST_0,
    "encoder_no_repeat_ngram_size": AT_LEAST_0,
    "forced_bos_token_id": INT_OR_NONE,
    "prompt_lookup_num_tokens": INT_OR_NONE,
    "max_matching_ngram_size": Limit(int, 1, MAX_LOOKUP_NGRAM),
    "top_logprobs": Limit(int, 0, MAX_TOP_LOGPROBS),
    "prompt_logprobs": Limit(int, 0, MAX_TOP_LOGPROBS, may_be_none=True),
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


def check_request(
    request: Request, model_config: "ModelConfig", adapters: Collection[str] = ()
) -> None:
    """Raise ValueError, naming field and limit, where a request could never run.

    `adapters` are the names of served adapters.
    """
    params = request.params
    if not request.prompt_token_ids:
        raise ValueError("prompt_token_ids must hold at least one token")
    if request.adapter is not None and request.adapter not in adapters:
        names = ", ".join(adapters) or "none"
        raise ValueError(f"adapter must be one of those served ({names}), not {request.adapter!r}")
    _check_values(params)
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens + params.max_new_tokens > model_config.context_length:
        raise ValueError(
            f"prompt tokens + max_new_tokens must be at most {model_config.context_length}, the "
            f"model's context, not {num_prompt_tokens} + {params.max_new_tokens}"
        )
    _check_beams(params)
    _check_token_ids(request, model_config.vocab_size)
    _check_forced(params)
    _check_generated(request)


def _check_values(params: SamplingParams) -> None:
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
        raise ValueError("stop_strings must hold no empty string")
    if params.grammar is not None and not params.eos_token_ids:
        raise ValueError("eos_token_ids must hold a token with a grammar, after which it ends")
    early_stopping: object = params.early_stopping
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f'early_stopping must be True, False or "never", not {early_stopping!r}')


def _check_tuple(name: str, value: object, kind: type) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise ValueError(f"{name} must be a tuple of {kind.__name__}, not {value!r}")


def _check_beams(params: SamplingParams) -> None:
    num_beams, num_groups = params.num_beams, params.num_beam_groups
    if num_beams > 1 and params.prompt_logprobs is not None:
        raise ValueError("prompt_logprobs must be None with num_beams > 1")
    if 1 < num_beams < params.num_return_sequences:
        raise ValueError(
            f"num_return_sequences must be at most num_beams ({num_beams}), "
            f"not {params.num_return_sequences}"
        )
    if num_beams % num_groups:
        raise ValueError(f"num_beam_groups ({num_groups}) must divide num_beams ({num_beams})")
    if num_groups > 1 and params.grammar is not None:
        raise ValueError("grammar must be None with num_beam_groups > 1")
    if num_groups > 1 and params.do_sample:
        raise ValueError("do_sample must be off with num_beam_groups > 1")
    if num_groups > 1 and not params.diversity_penalty > 0:
        raise ValueError(
            "diversity_penalty must be above 0 with num_beam_groups > 1, "
            f"not {params.diversity_penalty}"
        )
    if num_beams > 1 and params.do_sample and len(params.eos_token_ids) > MAX_BEAM_EOS:
        raise ValueError(
            f"eos_token_ids must hold at most {MAX_BEAM_EOS} with num_beams > 1 and do_sample, "
            f"not {len(params.eos_token_ids)}"
        )


def _check_forced(params: SamplingParams) -> None:
    """Refuse, as transformers does, to force a token and suppress it: none would be left."""
    forced_bos = () if params.forced_bos_token_id is None else (params.forced_bos_token_id,)
    for name, forced in (
        ("forced_bos_token_id", forced_bos),
        ("forced_eos_token_ids", params.forced_eos_token_ids),
    ):
        if forced and set(forced) <= set(params.suppress_tokens):
            raise ValueError(f"{name} must hold a token that is not in suppress_tokens")


def _check_generated(request: Request) -> None:
    params = request.params
    if len(request.generated) > params.num_return_sequences:
        raise ValueError(
            f"generated must hold at most {params.num_return_sequences} sequences "
            f"(num_return_sequences), not {len(request.generated)}"
        )
    longest = max(map(len, request.generated), default=0)
    if longest > params.max_new_tokens:
        raise ValueError(
            f"generated must hold at most {params.max_new_tokens} tokens per sequence "
            f"(max_new_tokens), not {longest}"
        )


def _check_token_ids(request: Request, vocab_size: int) -> None:
    for name, token_ids in _token_id_fields(request):
        if not token_ids and name in ("bad_words_ids", "sequence_bias"):
            raise ValueError(f"{name} must hold no empty sequence")
        for token_id in token_ids:
            if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise ValueError(
                    f"{name} must hold token ids in [0, {vocab_size}), the vocabulary, "
                    f"not {token_id}"
                )


def _token_id_fields(request: Request) -> Iterator[tuple[str, tuple[int, ...] | list[int]]]:
    """Yield each field that indexes logits or embeddings. An eos id out of range never occurs."""
    params = request.params
    yield "prompt_token_ids", request.prompt_token_ids
    yield "prediction", request.prediction
    for generated in request.generated:
        yield "generated", generated
    for word in params.bad_words_ids:
        yield "bad_words_ids", word
    for word, _ in params.sequence_bias:
        yield "sequence_bias", word
    yield "suppress_tokens", params.suppress_tokens
    yield "begin_suppress_tokens", params.begin_suppress_tokens
    yield "forced_eos_token_ids", params.forced_eos_token_ids
    for name in ("forced_bos_token_id", "pad_token_id"):
        token_id = getattr(params, name)
        yield name, () if token_id is None else (token_id,)
