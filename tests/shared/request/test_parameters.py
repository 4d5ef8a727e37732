"""Generation parameters: accepted and refused values, and their encoding."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.request.parameters import GenerateKwargs


def accepted(**kwargs: Any) -> GenerateKwargs:
    return GenerateKwargs.model_validate(kwargs)


def refused_field(kwargs: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        GenerateKwargs.model_validate(kwargs)
    return str(caught.value.errors()[0]["loc"][0])


def test_defaults_follow_the_contract() -> None:
    kwargs = GenerateKwargs()
    assert (kwargs.max_length, kwargs.min_length) == (200, 0)
    assert (kwargs.do_sample, kwargs.temperature, kwargs.top_k) == (True, 1.0, 10)
    assert (kwargs.top_p, kwargs.typical_p, kwargs.repetition_penalty) == (1, 1, 1)
    assert (kwargs.num_beams, kwargs.num_beam_groups, kwargs.diversity_penalty) == (1, 1, 0.0)
    assert (kwargs.early_stopping, kwargs.length_penalty) == (False, 1)
    assert (kwargs.no_repeat_ngram_size, kwargs.encoder_no_repeat_ngram_size) == (0, 0)
    assert (kwargs.bad_words_ids, kwargs.num_return_sequences) == (None, 1)
    assert (kwargs.output_scores, kwargs.return_dict_in_generate) == (False, False)
    assert (kwargs.forced_bos_token_id, kwargs.forced_eos_token_id) == (None, None)
    assert kwargs.remove_invalid_values is False
    assert kwargs.model_fields_set == set()


@pytest.mark.parametrize(
    ("name", "item", "where"),
    [
        ("eos_token_id", -1, (0,)),
        ("suppress_tokens", "a", (0,)),
        ("bad_words_ids", [-1] * 256, (0, 0)),
        ("sequence_bias", [[-1] * 256, 1.0], (0, 0, 0)),
        ("stop_strings", 1, (0,)),
    ],
)
def test_a_list_of_invalid_items_has_one_error_for_the_first(
    name: str, item: Any, where: tuple[int, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        accepted(**{name: [item] * 64})
    assert [error["loc"] for error in caught.value.errors()] == [(name, *where)]


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"max_length": 0}, "max_length"),
        ({"max_length": 2**31}, "max_length"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_length": -1}, "min_length"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 1e-300}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"typical_p": 0}, "typical_p"),
        ({"epsilon_cutoff": 1}, "epsilon_cutoff"),
        ({"eta_cutoff": -0.1}, "eta_cutoff"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 4, "num_beam_groups": 3, "do_sample": False}, "num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 2, "do_sample": False}, "diversity_penalty"),
        ({"early_stopping": "always"}, "early_stopping"),
        ({"early_stopping": 0}, "early_stopping"),
        ({"early_stopping": 1.0}, "early_stopping"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_return_sequences": 2, "do_sample": False}, "num_return_sequences"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"repetition_penalty": 1e300}, "repetition_penalty"),
        ({"diversity_penalty": 1e300}, "diversity_penalty"),
        ({"length_penalty": 1e300}, "length_penalty"),
        ({"length_penalty": -1e300}, "length_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"bad_words_ids": []}, "bad_words_ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"bad_words_ids": [[-1]]}, "bad_words_ids"),
        ({"bad_words_ids": [[True]]}, "bad_words_ids"),
        ({"bad_words_ids": [[1]] * 1025}, "bad_words_ids"),
        ({"suppress_tokens": [1.5]}, "suppress_tokens"),
        ({"sequence_bias": [[[1]]]}, "sequence_bias"),
        ({"sequence_bias": [[[], 1.0]]}, "sequence_bias"),
        ({"sequence_bias": [[[1], 1e308]]}, "sequence_bias"),
        ({"sequence_bias": [[[1], -1e308]]}, "sequence_bias"),
        ({"forced_bos_token_id": -1}, "forced_bos_token_id"),
        ({"forced_bos_token_id": 3, "suppress_tokens": [3]}, "forced_bos_token_id"),
        ({"forced_eos_token_id": [3, 4], "suppress_tokens": [3, 4, 5]}, "forced_eos_token_id"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [3] * 17, "num_beams": 2}, "eos_token_id"),
        ({"stop_strings": ""}, "stop_strings"),
        ({"stop_strings": ["x"] * 65}, "stop_strings"),
        ({"exponential_decay_length_penalty": [1]}, "exponential_decay_length_penalty"),
        ({"exponential_decay_length_penalty": [1, 0]}, "exponential_decay_length_penalty"),
        ({"exponential_decay_length_penalty": [0, 1e300]}, "exponential_decay_length_penalty"),
        ({"prompt_lookup_num_tokens": -1}, "prompt_lookup_num_tokens"),
        ({"max_matching_ngram_size": 0}, "max_matching_ngram_size"),
        ({"max_matching_ngram_size": 17}, "max_matching_ngram_size"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"do_sample": 1}, "do_sample"),
        ({"top_k": "10"}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"top_p": True}, "top_p"),
        ({"custom_generate": "repo"}, "custom_generate"),
        ({"trust_remote_code": None}, "trust_remote_code"),
        ({"max_time": 1.0}, "max_time"),
    ],
)
def test_the_error_for_a_value_outside_its_range_names_it(
    kwargs: dict[str, Any], field: str
) -> None:
    assert refused_field(kwargs) == field


@pytest.mark.parametrize(
    "kwargs",
    [
        {"temperature": 0},
        {"temperature": -1, "top_p": 7, "typical_p": -3},
        {"temperature": 1e-300},
        {"temperature": 1e300},
        {"top_k": -1, "min_p": 2, "epsilon_cutoff": 5, "eta_cutoff": -1},
    ],
)
def test_greedy_decoding_ignores_parameters_of_sampling(kwargs: dict[str, Any]) -> None:
    accepted(do_sample=False, **kwargs)


def test_only_beam_search_limits_the_number_of_eos_tokens() -> None:
    accepted(eos_token_id=[3] * 1024)
    accepted(eos_token_id=[3] * 16, num_beams=2)


def test_integers_are_accepted_for_floats() -> None:
    kwargs = accepted(top_p=1, temperature=2, repetition_penalty=1)
    assert isinstance(kwargs.top_p, float)
    assert kwargs.temperature == 2.0


def test_null_is_the_default_or_disables_a_parameter() -> None:
    nulled = GenerateKwargs.model_validate(dict.fromkeys(GenerateKwargs.model_fields))
    assert nulled.model_fields_set == {"eos_token_id", "top_k"}
    assert nulled.top_k is None
    assert nulled.temperature == 1.0


def test_single_values_and_flat_lists_are_read_as_lists() -> None:
    assert accepted(eos_token_id=3).eos_token_id == [3]
    assert accepted(stop_strings="end").stop_strings == ["end"]
    assert accepted(bad_words_ids=[1, 2]).bad_words_ids == [[1], [2]]
    assert accepted(forced_eos_token_id=[1, 2]).forced_eos_token_id == [1, 2]


def test_every_parameter_is_described_and_may_be_null_in_the_schema() -> None:
    for name, schema in GenerateKwargs.model_json_schema()["properties"].items():
        assert {"type": "null"} in schema["anyOf"], name
        assert schema["description"], name


token_ids = st.integers(0, 65_023)
unit = st.floats(0.01, 1)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "max_length": st.integers(1, 4096) | st.none(),
        "max_new_tokens": st.integers(1, 4096) | st.none(),
        "do_sample": st.booleans(),
        "temperature": st.floats(0.01, 10) | st.integers(1, 3),
        "top_k": st.integers(0, 100) | st.none(),
        "top_p": unit | st.just(1),
        "typical_p": unit,
        "seed": st.integers(0, 2**63 - 1),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "bad_words_ids": st.lists(st.lists(token_ids, min_size=1, max_size=3), min_size=1)
        | st.lists(token_ids, min_size=1),
        "eos_token_id": st.none() | token_ids | st.lists(token_ids, min_size=1),
        "stop_strings": st.text(min_size=1, max_size=5) | st.none(),
        "sequence_bias": st.lists(
            st.tuples(st.lists(token_ids, min_size=1, max_size=3), st.floats(-5, 5)).map(list),
            min_size=1,
        ),
        "exponential_decay_length_penalty": st.tuples(st.integers(0, 50), st.floats(1, 1.5)).map(
            list
        ),
    },
)


@given(parameters)
def test_accepted_values_survive_encoding(given_kwargs: dict[str, Any]) -> None:
    kwargs = GenerateKwargs.model_validate(given_kwargs)
    packed = msgspec.msgpack.encode(kwargs.model_dump(exclude_unset=True))
    again = GenerateKwargs.model_validate(msgspec.msgpack.decode(packed))
    assert again == kwargs
    assert again.model_fields_set == kwargs.model_fields_set


@given(
    st.dictionaries(
        st.sampled_from(sorted(GenerateKwargs.model_fields)),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.integers() | st.text()),
    )
)
def test_any_value_is_refused_with_a_reason_or_survives(values: dict[str, Any]) -> None:
    try:
        kwargs = GenerateKwargs.model_validate(values)
    except ValidationError as error:
        assert all(item["loc"] and item["msg"] for item in error.errors())
        return
    msgspec.msgpack.encode(kwargs.model_dump(exclude_unset=True))
