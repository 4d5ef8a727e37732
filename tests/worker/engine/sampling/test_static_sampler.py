"""The sampler of fixed shapes, against the sampler of rows with any parameters."""

from itertools import product

import pytest
import torch

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.sampling.sampled_token import SampledToken
from worker.engine.sampling.sampler import sample_tokens
from worker.engine.sampling.static_sampler import SamplingInputs, best_tokens, sampled_tokens
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence

NARROW, WIDE = 300, 5_000  # the best columns are all of them, and a part
GREEDY = SamplingParams()
SAMPLED = [
    SamplingParams(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    for temperature, top_k, top_p in product(
        (0.5, 1.0, 1.7), (None, 1, 7, 50, 2_000), (1.0, 0.9, 0.3, 1e-6)
    )
]


def draw_logits(num_rows: int, vocab_size: int, *, spread: float = 3.0) -> torch.Tensor:
    """Return logits rounded as a network in bfloat16 rounds them: many are equal."""
    draw = torch.Generator().manual_seed(num_rows)
    return (torch.randn(num_rows, vocab_size, generator=draw) * spread).bfloat16().float()


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> tuple[list[int], list[int]]:
    """Return the token of each row, and 1 where the row needs the other sampler."""
    inputs = SamplingInputs(*torch.zeros(4, len(sequences), dtype=torch.float64))
    inputs.fill(sequences)
    tokens, is_open = torch.zeros(2, len(sequences), dtype=torch.int64)
    best_tokens(logits, tokens, is_open)
    sampled_tokens(logits, inputs, tokens, is_open)
    return tokens.tolist(), is_open.tolist()


def sequences_of(params: list[SamplingParams]) -> list[Sequence]:
    return [
        make_sequence([0, 1], params=own, arrival=row, generated=(3,) * (row % 3))
        for row, own in enumerate(params)
    ]


@pytest.mark.parametrize("vocab_size", [NARROW, WIDE])
def test_rows_get_the_tokens_of_the_other_sampler(vocab_size: int) -> None:
    params = [own for own in SAMPLED for _ in range(5)] + [GREEDY]
    sequences = sequences_of(params)
    logits = draw_logits(len(params), vocab_size)
    tokens, is_open = sample(logits, sequences)
    expected = sample_tokens(logits.clone(), sequences)
    for own, token, needs_other, other in zip(params, tokens, is_open, expected, strict=True):
        assert needs_other or SampledToken(token) == other, own
    served = [own for own, needs_other in zip(params, is_open, strict=True) if not needs_other]
    assert {own for own in params if own.top_k != 2_000 and own.top_p < 0.9} <= set(served)


def test_a_row_whose_best_columns_are_too_few_goes_to_the_other_sampler() -> None:
    flat = draw_logits(3, WIDE, spread=0.1)
    top_p = SamplingParams(do_sample=True, top_p=0.9)
    equal = torch.zeros(1, WIDE)  # all tie with the tenth
    top_k = SamplingParams(do_sample=True, top_k=10)
    rows = torch.cat([flat, equal])
    _, is_open = sample(rows, sequences_of([top_p, SamplingParams(do_sample=True), GREEDY, top_k]))
    assert is_open == [1, 0, 0, 1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_with_invalid_logits_goes_to_the_other_sampler(value: float) -> None:
    params = [GREEDY, SAMPLED[0], SAMPLED[6], GREEDY]
    logits = draw_logits(4, WIDE)
    logits[:3, 17] = value
    _, is_open = sample(logits, sequences_of(params))
    assert is_open == [1, 1, 1, 0]
