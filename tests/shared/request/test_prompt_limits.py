"""Lengths of a request, and parameters beyond the limits of the model."""

from typing import Any

import pytest

from shared.errors import BadRequest, InvalidParameter
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder
from tests.factories import make_job
from tests.shared.request.encoders import lengths, make_encoder, refusal, token_ids

CONTEXT = 2048


@pytest.fixture
def encoder() -> PromptEncoder:
    return make_encoder()


@pytest.mark.parametrize(
    ("num_tokens", "kwargs", "expected"),
    [
        (10, {}, (10, 190)),
        (199, {}, (199, 1)),
        (200, {}, (200, 200)),
        (500, {}, (500, 200)),
        (CONTEXT - 5, {}, (CONTEXT - 5, 5)),
        (10, {"max_length": 50}, (10, 40)),
        (10, {"max_length": None}, (10, 190)),
        (10, {"max_length": 50, "max_new_tokens": 7}, (10, 7)),
        (300, {"max_length": 50, "max_new_tokens": 7}, (300, 7)),
        (10, {"max_length": CONTEXT}, (10, CONTEXT - 10)),
        (CONTEXT - 7, {"max_new_tokens": 7}, (CONTEXT - 7, 7)),
        (10, {"hole": True}, (10, 190)),
        (CONTEXT, {"hole": True, "max_new_tokens": 7}, (CONTEXT - 7, 7)),
        (CONTEXT + 500, {"hole": True}, (CONTEXT - 200, 200)),
        (5000, {"hole": True, "max_length": 5100}, (CONTEXT - 100, 100)),
    ],
)
def test_lengths_follow_the_contract(
    encoder: PromptEncoder, num_tokens: int, kwargs: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert lengths(encoder, num_tokens, **kwargs) == expected


@pytest.mark.parametrize(
    ("num_tokens", "kwargs", "numbers"),
    [
        (50, {"max_length": 50}, ("50", "50")),
        (51, {"max_length": 50}, ("51", "50")),
        (3000, {"max_length": 50, "hole": True}, ("3000", "50")),
        (CONTEXT, {}, (str(CONTEXT), "200")),
        (CONTEXT - 6, {"max_new_tokens": 7}, (str(CONTEXT - 6), str(CONTEXT))),
        (10, {"max_length": CONTEXT + 1}, ("10", str(CONTEXT))),
        (10, {"max_new_tokens": CONTEXT, "hole": True}, (str(CONTEXT),)),
        (10, {"max_new_tokens": 2**31 - 1}, ("2147483647",)),
    ],
)
def test_the_error_for_a_length_that_does_not_fit_has_the_numbers(
    encoder: PromptEncoder, num_tokens: int, kwargs: dict[str, Any], numbers: tuple[str, ...]
) -> None:
    with pytest.raises(BadRequest) as caught:
        lengths(encoder, num_tokens, **kwargs)
    assert caught.value.field
    for number in numbers:
        assert number in caught.value.message


def test_the_hole_keeps_the_end_of_the_prompt(encoder: PromptEncoder) -> None:
    prompt = make_job(prompt="a" * CONTEXT + "the end", handle_long_generation="hole")
    prepared = encoder.prepare(prompt, GenerateKwargs(max_new_tokens=CONTEXT - 7))
    assert prepared.token_ids == token_ids(encoder, prompt="the end")


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"eos_token_id": 257}, "eos_token_id"),
        ({"eos_token_id": [0, 300]}, "eos_token_id"),
        ({"pad_token_id": 257}, "pad_token_id"),
        ({"forced_bos_token_id": 257}, "forced_bos_token_id"),
        ({"forced_eos_token_id": 257}, "forced_eos_token_id"),
        ({"bad_words_ids": [[1], [2, 257]]}, "bad_words_ids.1"),
        ({"suppress_tokens": [257]}, "suppress_tokens"),
        ({"begin_suppress_tokens": [257]}, "begin_suppress_tokens"),
        ({"sequence_bias": [[[257], 1.0]]}, "sequence_bias.0"),
        ({"num_beams": 9, "do_sample": False}, "num_beams"),
        ({"num_return_sequences": 9}, "num_return_sequences"),
    ],
)
def test_the_error_for_a_parameter_outside_the_models_limits_names_it(
    encoder: PromptEncoder, kwargs: dict[str, Any], field: str
) -> None:
    error = refusal(encoder, make_job(prompt="x"), **kwargs)
    assert isinstance(error, InvalidParameter)
    assert error.field == f"generate_kwargs.{field}"


def test_the_number_of_beams_is_limited_by_the_model() -> None:
    encoder = make_encoder(max_num_beams=3)
    error = refusal(encoder, make_job(prompt="x"), num_beams=4)
    assert error.message == "must be at most 3 with this model, got 4"
    encoder.prepare(make_job(prompt="x"), GenerateKwargs(num_beams=3, max_new_tokens=5))


def test_the_error_for_a_request_larger_than_the_cache_has_both_numbers() -> None:
    encoder = make_encoder(max_kv_tokens=100)
    error = refusal(encoder, make_job(prompt="x" * 10), num_return_sequences=4, max_new_tokens=20)
    assert isinstance(error, BadRequest)
    assert "120" in error.message
    assert "100" in error.message


def test_the_last_token_of_the_vocabulary_is_accepted(encoder: PromptEncoder) -> None:
    encoder.prepare(make_job(prompt="x"), GenerateKwargs(eos_token_id=[256], suppress_tokens=[256]))
