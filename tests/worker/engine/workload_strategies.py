"""Hypothesis strategies: workloads, requests, rows of a batch; they shrink to plain examples."""

from dataclasses import replace
from typing import TypeVar

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.param_strategies import (
    ANY,
    BEAM_SAMPLING,
    EXTREME_SAMPLING,
    GREEDY,
    SAMPLING,
    Params,
    Prompt,
    after,
    prompts,
    token_ids,
)
from tests.worker.engine.sampling.rows import make_sequence
from tests.worker.engine.workload import ScheduledRequest, Workload
from worker.engine import EngineConfig
from worker.engine.sequence import Sequence

T = TypeVar("T")


@st.composite
def workloads(draw: st.DrawFn, leading: Params) -> Workload:
    """One request with `leading` parameters and 1 to 6 with any; some prompts share a prefix."""
    similar_prompts = _prompts_with_prefix(draw(prompts(min_size=0, max_size=16)))
    requests = [draw(scheduled_requests(leading, similar_prompts))]
    for _ in range(draw(st.integers(1, 6))):
        arrives = requests[-1].arrives + draw(st.integers(0, 2))
        leaves = draw(st.none() | st.integers(0, 8))
        requests.append(
            replace(draw(scheduled_requests(ANY, similar_prompts)), arrives=arrives, leaves=leaves)
        )
    style = draw(st.sampled_from(STYLES))
    preempt_at = draw(st.lists(st.integers(1, 12), unique=True, max_size=3))
    return Workload(style, draw(_configs(requests)), tuple(requests), tuple(preempt_at))


@st.composite
def scheduled_requests(
    draw: st.DrawFn, params: Params, prompts: SearchStrategy[Prompt]
) -> ScheduledRequest:
    prompt = draw(prompts)
    return ScheduledRequest(
        prompt,
        after(prompt, draw(params)),
        priority=draw(st.integers(-1, 1)),
        gives_way=draw(st.booleans()),
    )


@st.composite
def _prompts_with_prefix(draw: st.DrawFn, shared: Prompt) -> Prompt:
    """Prompts that begin with a part of `shared`."""
    prefix = shared[: draw(st.integers(0, len(shared)))]
    return prefix + draw(prompts(min_size=0 if prefix else 1, max_size=10))


@st.composite
def _configs(draw: st.DrawFn, requests: list[ScheduledRequest]) -> EngineConfig:
    """A small KV cache: what the largest request needs alone, or up to a quarter more."""
    block_size = draw(st.sampled_from([2, 1, 4, 16]))
    max_rows = max(scheduled.params.num_beams for scheduled in requests) + draw(st.integers(0, 5))
    num_blocks = max(num_blocks_alone(scheduled, block_size) for scheduled in requests)
    return EngineConfig(
        max_rows=max_rows,
        num_blocks=num_blocks + draw(st.integers(0, num_blocks // 4)),
        block_size=block_size,
        max_step_tokens=max_rows + draw(st.integers(0, 16)),
        max_chunk_tokens=draw(st.integers(1, 16)),
        batch_share=draw(st.sampled_from([0.1, 0, 0.5, 10])),
    )


def num_blocks_alone(scheduled: ScheduledRequest, block_size: int) -> int:
    """Return the blocks that a request alone needs; beams share full blocks of the prompt."""
    num_tokens = len(scheduled.prompt) + scheduled.params.max_new_tokens - 1
    num_all = -(-num_tokens // block_size)
    num_shared = min(num_all, len(scheduled.prompt) // block_size)
    return num_shared + scheduled.params.num_beams * (num_all - num_shared)


@st.composite
def rows(draw: st.DrawFn) -> Sequence:
    """A row of a batch, with any number of its new tokens generated."""
    prompt = draw(prompts())
    modes = GREEDY | SAMPLING | EXTREME_SAMPLING | BEAM_SAMPLING
    params = after(prompt, draw(modes))
    num_generated = draw(st.just(params.max_new_tokens - 1) | st.integers(0, 11))
    size = min(num_generated, params.max_new_tokens - 1)
    generated = draw(st.lists(st.sampled_from(prompt) | token_ids, min_size=size, max_size=size))
    return make_sequence(list(prompt), params, generated=tuple(generated))


def examples(strategy: SearchStrategy[T], count: int) -> list[T]:
    """Return `count` different values, the same every time."""
    found: dict[T, None] = {}

    @settings(max_examples=4 * count, derandomize=True, database=None, phases=[Phase.generate])
    @given(strategy)
    def look(value: T) -> None:
        found[value] = None

    look()
    return list(found)[:: len(found) // count][:count]  # neighbours are often similar_prompts
