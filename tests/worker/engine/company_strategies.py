"""Hypothesis strategies: requests in company, rows of a batch; they shrink to few plain ones."""

from dataclasses import replace
from typing import TypeVar

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.worker.engine.company import Company, Guest
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
from worker.engine import EngineConfig
from worker.engine.sequence import Sequence

T = TypeVar("T")


@st.composite
def companies(draw: st.DrawFn, leading: Params) -> Company:
    """A guest with `leading` parameters and 1 to 6 with any, some of whose prompts begin alike."""
    alike = _beginning_with(draw(prompts(min_size=0, max_size=16)))
    party = [draw(guests(leading, alike))]
    for _ in range(draw(st.integers(1, 6))):
        arrives = party[-1].arrives + draw(st.integers(0, 2))
        leaves = draw(st.none() | st.integers(0, 8))
        party.append(replace(draw(guests(ANY, alike)), arrives=arrives, leaves=leaves))
    style = draw(st.sampled_from(STYLES))
    upsets = draw(st.lists(st.integers(1, 12), unique=True, max_size=3))
    return Company(style, draw(_configs(party)), tuple(party), tuple(upsets))


@st.composite
def guests(draw: st.DrawFn, params: Params, prompts: SearchStrategy[Prompt]) -> Guest:
    prompt = draw(prompts)
    return Guest(prompt, after(prompt, draw(params)), priority=draw(st.integers(-1, 1)))


@st.composite
def _beginning_with(draw: st.DrawFn, shared: Prompt) -> Prompt:
    """Prompts that have more or less of `shared` in common."""
    prefix = shared[: draw(st.integers(0, len(shared)))]
    return prefix + draw(prompts(min_size=0 if prefix else 1, max_size=10))


@st.composite
def _configs(draw: st.DrawFn, party: list[Guest]) -> EngineConfig:
    """Little room: what the largest guest needs alone, or up to a quarter more."""
    block_size = draw(st.sampled_from([2, 1, 4, 16]))
    max_rows = max(guest.params.num_beams for guest in party) + draw(st.integers(0, 5))
    num_blocks = max(num_blocks_alone(guest, block_size) for guest in party)
    return EngineConfig(
        max_rows=max_rows,
        num_blocks=num_blocks + draw(st.integers(0, num_blocks // 4)),
        block_size=block_size,
        max_step_tokens=max_rows + draw(st.integers(0, 16)),
        max_chunk_tokens=draw(st.integers(1, 16)),
    )


def num_blocks_alone(guest: Guest, block_size: int) -> int:
    """What a request needs with nobody else there; beams share the full blocks of the prompt."""
    num_tokens = len(guest.prompt) + guest.params.max_new_tokens - 1
    num_all = -(-num_tokens // block_size)
    num_shared = min(num_all, len(guest.prompt) // block_size)
    return num_shared + guest.params.num_beams * (num_all - num_shared)


@st.composite
def rows(draw: st.DrawFn) -> Sequence:
    """A row of a batch, somewhere on its way from its first new token to its last."""
    prompt = draw(prompts())
    manners = GREEDY | SAMPLING | EXTREME_SAMPLING | BEAM_SAMPLING
    params = after(prompt, draw(manners))
    num_generated = draw(st.just(params.max_new_tokens - 1) | st.integers(0, 11))
    size = min(num_generated, params.max_new_tokens - 1)
    generated = draw(st.lists(st.sampled_from(prompt) | token_ids, min_size=size, max_size=size))
    return make_sequence(list(prompt), params, generated=tuple(generated))


def examples(strategy: SearchStrategy[T], count: int) -> list[T]:
    """That many different values, the same ones every time."""
    found: dict[T, None] = {}

    @settings(max_examples=4 * count, derandomize=True, database=None, phases=[Phase.generate])
    @given(strategy)
    def look(value: T) -> None:
        found[value] = None

    look()
    return list(found)[:: len(found) // count][:count]  # neighbours are often alike
