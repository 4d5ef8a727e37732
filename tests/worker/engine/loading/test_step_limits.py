"""The limits that no setting gives, on the numbers of several machines and models."""

from dataclasses import replace

import pytest

from worker.engine import EngineConfig
from worker.engine.loading.step_limits import (
    StepTimes,
    choose_rows,
    choose_step_tokens,
    lower_to_blocks,
    lower_to_defaults,
    lower_to_times,
)

# Measured on two AVX-512 cores: 122 M parameters in float32.
SMALL = StepTimes({1: 0.015, 8: 0.018, 16: 0.029, 32: 0.051, 64: 0.094, 128: 0.147}, 0.00082)
# falcon-7b in bfloat16 on the same cores, computed from the times of its layers.
LARGE = StepTimes({1: 0.50, 8: 0.53, 16: 0.70, 32: 1.1}, 0.026)


def chosen(times: StepTimes, **given: int) -> EngineConfig:
    return lower_to_times(EngineConfig.for_machine("cpu", **given), times)


def test_rows_are_the_most_whose_step_takes_an_eighth_of_a_second() -> None:
    assert chosen(SMALL).max_rows == 64


def test_a_slow_model_gets_the_rows_that_at_most_double_its_step() -> None:
    assert chosen(LARGE).max_rows == 16


def test_rows_that_cost_throughput_are_not_chosen() -> None:
    assert choose_rows({1: 0.010, 8: 0.012, 16: 0.022, 32: 0.060}) == 16


def test_rows_stay_above_one_where_only_one_was_measured() -> None:
    assert choose_rows({1: 5.0}) == 8


def test_a_step_of_prompts_takes_two_seconds_at_most_but_not_few_tokens() -> None:
    assert choose_step_tokens(0.001, 512) == 512
    assert choose_step_tokens(0.005, 512) == 256
    assert choose_step_tokens(0.100, 512) == 128


def test_a_chunk_takes_nine_tenths_of_a_decoding_step() -> None:
    for times in (SMALL, LARGE):
        chunk = chosen(times).max_chunk_tokens
        # With 16 decoding rows, 15 tokens more.
        added_s = (chunk + 15) * times.prompt_token_s
        assert 0.8 * times.decode_s[16] <= added_s <= 1.0 * times.decode_s[16]


def test_a_given_limit_is_kept_and_the_others_follow() -> None:
    config = chosen(SMALL, max_rows=700)
    assert (config.max_rows, config.max_step_tokens) == (700, 700)
    config = chosen(SMALL, max_step_tokens=48)
    assert (config.max_rows, config.max_step_tokens) == (48, 48)
    assert chosen(LARGE, max_chunk_tokens=300).max_chunk_tokens == 300
    given = {"max_rows": 3, "max_step_tokens": 99, "max_chunk_tokens": 5}
    assert chosen(LARGE, **given) == EngineConfig(**given)


def test_no_choice_exceeds_the_bound_that_memory_was_planned_with() -> None:
    fast = StepTimes(
        {1: 0.001, **{rows: 0.001 + rows * 1e-6 for rows in (8, 16, 32, 64, 128)}}, 1e-7
    )
    bounds = EngineConfig.for_machine("cpu")
    config = lower_to_times(bounds, fast)
    assert config.max_rows == bounds.max_rows
    assert config.max_step_tokens == bounds.max_step_tokens
    assert config.max_chunk_tokens <= bounds.max_chunk_tokens


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_gets_256_rows_and_2048_tokens(device: str) -> None:
    bounds = EngineConfig.for_machine(device)
    assert (bounds.max_rows, bounds.max_step_tokens, bounds.max_chunk_tokens) == (256, 2048, 512)


def test_few_kv_blocks_bound_the_rows_to_256_tokens_each() -> None:
    bounds = EngineConfig.for_machine("cuda")  # blocks of 32 tokens
    assert lower_to_blocks(bounds, 10_000).max_rows == 256
    assert lower_to_blocks(bounds, 800).max_rows == 100
    assert lower_to_blocks(bounds, 3).max_rows == 1


def test_neither_given_rows_nor_a_given_kv_cache_is_lowered() -> None:
    for given in ({"max_rows": 64}, {"num_blocks": 8}):
        bounds = EngineConfig.for_machine("cuda", **given)
        assert lower_to_blocks(bounds, 8) == bounds


def test_a_limit_that_is_not_measured_is_the_default_of_the_engine_config() -> None:
    config = lower_to_defaults(EngineConfig.for_machine("cpu"))
    assert replace(config, open_limits=frozenset()) == EngineConfig()
    config = lower_to_defaults(EngineConfig.for_machine("cpu", max_rows=1000))
    assert (config.max_rows, config.max_step_tokens) == (1000, 1000)
