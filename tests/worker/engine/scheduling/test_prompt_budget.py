"""The tokens of prompts in a step: total cost, shares, and the time that decoding rows wait."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.scheduling.prompt_budget import (
    PromptWork,
    prompt_cost_limit,
    share_among_prompts,
)

works = st.builds(PromptWork, num_computed=st.integers(0, 4096), num_wanted=st.integers(2, 2048))
prompt_lists = st.lists(works, min_size=1, max_size=64)


def step_cost(num_decoding: int, max_chunk_tokens: int) -> int:
    """Return the cost of a step that only decodes."""
    return max_chunk_tokens - 1 + num_decoding


def cost_of(prompts: list[PromptWork], sizes: list[int]) -> float:
    return sum(size * prompt.token_cost for size, prompt in zip(sizes, prompts, strict=True))


@given(prompts=prompt_lists, spare=st.integers(0, 2048), max_cost=st.floats(0, 4096))
def test_every_prompt_advances_and_no_limit_is_exceeded(
    prompts: list[PromptWork], spare: int, max_cost: float
) -> None:
    sizes = share_among_prompts(prompts, max_tokens=len(prompts) + spare, max_cost=max_cost)
    assert all(1 <= n <= p.num_wanted for n, p in zip(sizes, prompts, strict=True))
    assert sum(sizes) <= len(prompts) + spare
    least = cost_of(prompts, [1] * len(prompts))  # a prompt always gets one token
    assert cost_of(prompts, sizes) <= max(max_cost, least) + 1e-6


@given(
    prompts=st.lists(works, min_size=1, max_size=2),
    num_decoding=st.integers(1, 256),
    max_chunk_tokens=st.integers(8, 512),
)
def test_one_or_two_prompts_at_most_double_the_time_of_a_decoding_step(
    prompts: list[PromptWork], num_decoding: int, max_chunk_tokens: int
) -> None:
    limit = prompt_cost_limit(
        num_decoding=num_decoding, num_prompts=len(prompts), max_chunk_tokens=max_chunk_tokens
    )
    sizes = share_among_prompts(prompts, max_tokens=2048, max_cost=limit)
    least = cost_of(prompts, [1] * len(prompts))
    assert cost_of(prompts, sizes) <= max(step_cost(num_decoding, max_chunk_tokens), least) + 1e-6


@given(prompts=prompt_lists, max_tokens=st.integers(64, 2048))
def test_prompts_get_the_whole_step_if_nothing_decodes(
    prompts: list[PromptWork], max_tokens: int
) -> None:
    limit = prompt_cost_limit(num_decoding=0, num_prompts=len(prompts), max_chunk_tokens=16)
    sizes = share_among_prompts(prompts, max_tokens=max_tokens, max_cost=limit)
    assert sum(sizes) == min(max_tokens, sum(prompt.num_wanted for prompt in prompts))


@pytest.mark.parametrize("max_cost", [300.0, math.inf])
def test_no_budget_is_left_while_a_prompt_could_use_it(max_cost: float) -> None:
    prompts = [PromptWork(0, 10), PromptWork(0, 400), PromptWork(0, 20)]
    sizes = share_among_prompts(prompts, max_tokens=300, max_cost=max_cost)
    assert sum(sizes) == 300


def test_many_prompts_that_wait_for_few_decoding_rows_get_large_chunks() -> None:
    def limit(num_decoding: int, num_prompts: int) -> float:
        return prompt_cost_limit(
            num_decoding=num_decoding, num_prompts=num_prompts, max_chunk_tokens=16
        )

    assert limit(4, 60) == 30 * step_cost(4, 16)
    assert limit(60, 4) == 2 * step_cost(60, 16)
    assert limit(60, 1) == step_cost(60, 16)


def test_a_short_prompt_does_not_wait_for_a_long_one_before_it() -> None:
    prompts = [PromptWork(0, 1500), PromptWork(0, 30), PromptWork(0, 30)]
    sizes = share_among_prompts(prompts, max_tokens=512, max_cost=120.0)
    assert sizes == [60, 30, 30]
