import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from shared.protocol import decode_delta, encode
from shared.request.parameters import GenerateKwargs
from tests.echo_worker import letter_tokenizer
from tests.factories import make_card, make_job
from worker.engine import FinishReason, SamplingParams, TokenOutput
from worker.generation import Generation
from worker.jobs.conversion import clean_up, to_chat_result, to_delta, to_output, to_sampling_params


def translate(**kwargs: Any) -> SamplingParams:
    """Convert parameters after a round trip through msgpack."""
    sent = GenerateKwargs.model_validate(kwargs).model_dump(exclude_unset=True)
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(sent))
    return to_sampling_params(
        GenerateKwargs.model_validate(received), max_new_tokens=5, seed=9, card=make_card()
    )


def test_missing_parameters_get_the_documented_defaults() -> None:
    params = translate()
    assert (params.do_sample, params.top_k, params.temperature) == (True, 10, 1.0)
    assert (params.max_new_tokens, params.seed) == (5, 9)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [({}, (0,)), ({"eos_token_id": None}, ()), ({"eos_token_id": 7}, (7,))],
)
def test_eos_tokens_are_the_models_unless_the_request_sets_them(
    kwargs: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert translate(**kwargs).eos_token_ids == expected


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("min_length", 3, "min_length", 3),
        ("min_new_tokens", 2, "min_new_tokens", 2),
        ("stop_strings", "END", "stop_strings", ("END",)),
        ("do_sample", False, "do_sample", False),
        ("num_return_sequences", 3, "num_return_sequences", 3),
        ("num_beams", 4, "num_beams", 4),
        ("early_stopping", "never", "early_stopping", "never"),
        ("length_penalty", -1, "length_penalty", -1.0),
        ("diversity_penalty", 0.5, "diversity_penalty", 0.5),
        ("pad_token_id", 3, "pad_token_id", 3),
        ("temperature", 0.5, "temperature", 0.5),
        ("top_k", None, "top_k", None),
        ("top_p", 0.9, "top_p", 0.9),
        ("min_p", 0.1, "min_p", 0.1),
        ("typical_p", 0.8, "typical_p", 0.8),
        ("epsilon_cutoff", 0.01, "epsilon_cutoff", 0.01),
        ("eta_cutoff", 0.02, "eta_cutoff", 0.02),
        ("repetition_penalty", 2, "repetition_penalty", 2.0),
        ("no_repeat_ngram_size", 2, "no_repeat_ngram_size", 2),
        ("encoder_no_repeat_ngram_size", 3, "encoder_no_repeat_ngram_size", 3),
        ("bad_words_ids", [[1, 2], [3]], "bad_words_ids", ((1, 2), (3,))),
        ("bad_words_ids", [1, 2], "bad_words_ids", ((1,), (2,))),
        ("sequence_bias", [[[1, 2], -1.5]], "sequence_bias", (((1, 2), -1.5),)),
        ("suppress_tokens", [4], "suppress_tokens", (4,)),
        ("begin_suppress_tokens", [5], "begin_suppress_tokens", (5,)),
        ("forced_bos_token_id", 6, "forced_bos_token_id", 6),
        ("forced_eos_token_id", [7, 8], "forced_eos_token_ids", (7, 8)),
        (
            "exponential_decay_length_penalty",
            [3, 1.5],
            "exponential_decay_length_penalty",
            (3, 1.5),
        ),
        ("remove_invalid_values", True, "remove_invalid_values", True),
        ("renormalize_logits", True, "renormalize_logits", True),
        ("prompt_lookup_num_tokens", 0, "prompt_lookup_num_tokens", 0),
        ("prompt_lookup_num_tokens", 9, "prompt_lookup_num_tokens", 9),
        ("max_matching_ngram_size", 3, "max_matching_ngram_size", 3),
        ("output_scores", True, "logprobs", True),
        ("top_logprobs", 4, "top_logprobs", 4),
    ],
)
def test_each_parameter_is_converted(name: str, value: Any, field: str, expected: Any) -> None:
    assert getattr(translate(**{name: value}), field) == expected


def test_beam_groups_are_converted() -> None:
    params = translate(num_beams=4, num_beam_groups=2, diversity_penalty=0.5, do_sample=False)
    assert (params.num_beams, params.num_beam_groups) == (4, 2)


def test_every_parameter_of_the_engine_is_set() -> None:
    """No field may silently keep the engine's own default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.jobs.conversion.SamplingParams", dict)
        given: Any = to_sampling_params(
            GenerateKwargs(), max_new_tokens=1, seed=0, card=make_card()
        )
    assert set(given) == {field.name for field in dataclasses.fields(SamplingParams)}


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [([-1.0, -2.0], [-1.0, -2.0]), ([-1.0, None], None), ([None, None], None)],
)
def test_log_probabilities_are_returned_if_every_token_has_one(
    logprobs: list[float | None], expected: list[float] | None
) -> None:
    generation = Generation(1, asyncio.Event())
    generation.take(
        [
            TokenOutput("r", sequence=0, token_id=7, text="x", logprob=logprob)
            for logprob in logprobs
        ],
        rows=1,
    )
    kwargs = GenerateKwargs(output_scores=True)
    result = to_chat_result(make_job(token_ids=[1]), kwargs, generation)
    assert (result.sequences[0].token_ids, result.sequences[0].token_logprobs) == ([7, 7], expected)


def test_the_score_of_a_beam_is_returned_on_request() -> None:
    generation = Generation(1, asyncio.Event())
    last = TokenOutput("r", sequence=0, token_id=7, text="x", score=-0.5)
    generation.take([TokenOutput("r", sequence=0, token_id=6, text="y"), last], rows=1)
    for kwargs, score in ((GenerateKwargs(output_scores=True), -0.5), (GenerateKwargs(), None)):
        result = to_chat_result(make_job(token_ids=[1]), kwargs, generation)
        assert result.sequences[0].score == score


@given(st.text(alphabet=" .?!,'nmsvtrea", max_size=30))
def test_clean_up_equals_that_of_transformers(text: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letter_tokenizer())
    assert clean_up(text) == tokenizer.clean_up_tokenization(text)


LOGPROBS = st.floats(max_value=0, allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        TokenOutput,
        request_id=st.just("r"),
        sequence=st.integers(0, 31),
        token_id=st.integers(0, 65_023),
        text=st.text(),
        logprob=st.none() | LOGPROBS,
        top_logprobs=st.none() | st.dictionaries(st.integers(0, 65_023), LOGPROBS, max_size=20),
        finish_reason=st.none() | st.sampled_from(FinishReason),
        score=st.none(),
    )
)
def test_a_token_survives_the_round_trip_through_the_log(output: TokenOutput) -> None:
    assert to_output("r", decode_delta(encode(to_delta(output)))) == output
