"""Requests to the engine: every value out of bounds is refused by name."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from shared.request.parameters import GenerateKwargs
from worker.engine import Request, SamplingParams
from worker.engine.request import LIMITS, LIMITS_WHILE_SAMPLING, Limit, check_request
from worker.model.config import ModelConfig

BEAMS = {"num_beams": 2, "do_sample": True}
SMALL = ModelConfig.from_dict(
    {"model_type": "falcon", "vocab_size": 100, "max_position_embeddings": 64}
)


def check(prompt: list[int] | None = None, **params: Any) -> None:
    request = Request(
        request_id="r", prompt_token_ids=prompt or [5], params=SamplingParams(**params)
    )
    check_request(request, SMALL)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_new_tokens": 2.5}, "max_new_tokens must be int, not 2.5"),
        ({"max_new_tokens": None}, "max_new_tokens must be int, not None"),
        ({"min_length": -1}, r"min_length must lie in \[0, 2147483647\], not -1"),
        ({"seed": 1.0}, "seed must be int"),
        ({"num_beams": 2.0}, "num_beams must be int"),
        ({"top_logprobs": 21}, r"top_logprobs must lie in \[0, 20\]"),
        ({"pad_token_id": -1}, "pad_token_id must lie in"),
        ({"forced_bos_token_id": 1.5}, "forced_bos_token_id must be int"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must lie in"),
        ({"repetition_penalty": 0}, r"repetition_penalty must lie in \[1e-06, 1000000.0\], not 0"),
        ({"repetition_penalty": "1"}, "repetition_penalty must be float, not '1'"),
        ({"diversity_penalty": math.inf}, "diversity_penalty must lie in"),
        ({"do_sample": True, "temperature": math.nan}, "temperature must lie in"),
        ({"do_sample": True, "top_k": -1}, "top_k must lie in"),
        ({"do_sample": True, "top_k": 3.0}, "top_k must be int"),
        ({"do_sample": True, "top_p": 0.0}, r"top_p must lie in \(0, 1\], not 0.0"),
        ({"do_sample": True, "top_p": 1.1}, "top_p must lie in"),
        ({"do_sample": True, "min_p": 1.1}, r"min_p must lie in \[0, 1\]"),
        ({"do_sample": True, "typical_p": 0.0}, "typical_p must lie in"),
        ({"do_sample": True, "epsilon_cutoff": 1.0}, r"epsilon_cutoff must lie in \[0, 1\)"),
        ({"do_sample": True, "eta_cutoff": -0.1}, "eta_cutoff must lie in"),
        ({"early_stopping": "always"}, 'early_stopping must be True, False or "never"'),
        ({"early_stopping": 1}, "early_stopping must be True"),
        ({"stop_strings": "end"}, "stop_strings must be a tuple of str, not 'end'"),
        ({"stop_strings": (3,)}, "stop_strings must be a tuple of str"),
        ({"stop_strings": ("",)}, "stop_strings must hold no empty string"),
        ({"eos_token_ids": None}, "eos_token_ids must be a tuple of int, not None"),
        ({"eos_token_ids": [3]}, "eos_token_ids must be a tuple of int"),
        ({"eos_token_ids": (3, -1)}, "eos_token_ids must be at least 0, not -1"),
        ({"suppress_tokens": (1.5,)}, "suppress_tokens must be a tuple of int"),
        ({"bad_words_ids": (3,)}, "bad_words_ids must be a tuple of tuple"),
        ({"bad_words_ids": ((1.5,),)}, "bad_words_ids must hold .*, not 1.5"),
        (
            {"eos_token_ids": (3,) * 17, **BEAMS},
            "eos_token_ids must hold at most 16 with num_beams",
        ),
        ({"prompt": [1.5]}, "prompt_token_ids must hold .*, not 1.5"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name_and_limit(
    params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(**params)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.0, "top_k": -1, "top_p": 7, "min_p": 2, "eta_cutoff": 5},
        {"do_sample": True, "top_k": None, "min_p": None, "top_p": 1, "typical_p": 3},
        {"early_stopping": "never", "num_beams": 2, "eos_token_ids": tuple(range(90))},
        {"eos_token_ids": (3,) * 16, **BEAMS},
        {"eos_token_ids": tuple(range(90)), "do_sample": True},
    ],
)
def test_valid_parameters_are_accepted(params: dict[str, Any]) -> None:
    check(**params)


def api_accepts(**kwargs: Any) -> bool:
    try:
        GenerateKwargs.model_validate(kwargs)
    except ValidationError:
        return False
    return True


def engine_accepts(limit: Limit, value: float) -> bool:
    try:
        limit.check("any", value)
    except ValueError:
        return False
    return True


def around(limit: Limit) -> list[float]:
    """Both ends and the values next to them."""
    if limit.kind is int:
        return [int(limit.low) - 1, int(limit.low), int(limit.high), int(limit.high) + 1]
    ends = [end for end in (limit.low, limit.high) if math.isfinite(end)]
    return [x for e in ends for x in (math.nextafter(e, -math.inf), e, math.nextafter(e, math.inf))]


ALL_LIMITS = LIMITS | LIMITS_WHILE_SAMPLING


# Several groups of beams need other parameters as well.
@pytest.mark.parametrize("name", sorted(ALL_LIMITS.keys() - {"num_beam_groups"}))
def test_the_limits_equal_the_apis(name: str) -> None:
    limit = ALL_LIMITS[name]
    for value in around(limit):
        assert engine_accepts(limit, value) == api_accepts(**{name: value}), value
