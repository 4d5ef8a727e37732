"""Sampling: distributions, independence of the batch, and rows that form no distribution."""

import math
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.engine.random_params import (
    random_greedy_params,
    random_prompt,
    random_sampling_params,
)
from tests.worker.engine.sampling.chi_square import p_value
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.outputs import FailureCause
from worker.engine.sampling.logits_processors import process
from worker.engine.sampling.multinomial import multinomial
from worker.engine.sampling.philox import uniforms
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure
from worker.engine.sampling.sampler import sample_tokens
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence

VOCAB_SIZE = 40
WIDE_VOCAB_SIZE = 3_000  # many tiles, the last of which is not full
SAMPLE = SamplingParams(do_sample=True, max_new_tokens=100_000)


def logits(count: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, VOCAB_SIZE, generator=generator) * 2


def sample(rows: torch.Tensor, sequences: list[Sequence]) -> list[SampledToken | SamplingFailure]:
    """Sample from a copy of the logits, which the sampler overwrites."""
    return sample_tokens(rows.clone(), sequences)


def token(sampled: SampledToken | SamplingFailure) -> int:
    assert isinstance(sampled, SampledToken)
    return sampled.token_id


@pytest.mark.parametrize("varied", ["seed", "sequence", "position"])
def test_samples_follow_the_softmax(varied: str) -> None:
    count = 5_000
    row = logits()[0]
    sequences = [make_sequence([0], replace(SAMPLE, seed=3)) for _ in range(count)]
    for number, sequence in enumerate(sequences):
        match varied:
            case "seed":
                sequences[number] = make_sequence([0], replace(SAMPLE, seed=number))
            case "sequence":
                sequence.index = number
            case "position":
                sequence.token_ids.extend([0] * number)
    tokens = torch.tensor([token(c) for c in sample(row.expand(count, -1), sequences)])
    counts = torch.bincount(tokens, minlength=VOCAB_SIZE).double()
    assert p_value(counts, row.double().softmax(dim=-1)) > 0.001


def test_only_what_the_warpers_leave_is_drawn_in_its_renormalized_share() -> None:
    count = 20_000
    row = logits()[0]
    params = replace(SAMPLE, top_k=5, temperature=1.7)
    sequences = [make_sequence([0], replace(params, seed=seed)) for seed in range(count)]
    tokens = torch.tensor([token(c) for c in sample(row.expand(count, -1), sequences)])
    best = row.topk(5)
    counts = torch.bincount(tokens, minlength=VOCAB_SIZE)[best.indices].double()
    assert counts.sum() == count
    shares = (best.values.double() / 1.7).softmax(dim=-1)
    assert p_value(counts, shares) > 0.001


def test_a_sampled_token_is_the_same_alone_and_in_a_mixed_batch() -> None:
    params = [
        replace(SAMPLE, seed=1),
        replace(SAMPLE, seed=2, top_k=7),
        replace(SAMPLE, seed=3, top_k=20, repetition_penalty=1.3),
        SamplingParams(),
        replace(SAMPLE, seed=1, top_k=9),
        replace(SAMPLE, seed=1),
    ] * 10
    rows = logits(len(params))
    sequences = [
        make_sequence([number % 5, 3], p, generated=(1,) * number, index=number % 3)
        for number, p in enumerate(params)
    ]
    alone = [sample(rows[[i]], [s])[0] for i, s in enumerate(sequences)]
    assert sample(rows, sequences) == alone


def wide_logits(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, WIDE_VOCAB_SIZE, generator=generator) * 3
    rows[::5] = rows[::5].round()  # ties, as with coarse dtypes
    return rows


def wide_sequences(count: int, seed: int = 0) -> list[Sequence]:
    """Make sequences with random parameters; a third has a small top-k."""
    random = Random(seed)
    sequences = []
    for number in range(count):
        make_params = random_greedy_params if number % 4 == 0 else random_sampling_params
        params = make_params(random, WIDE_VOCAB_SIZE)
        if number % 3 == 0:
            params = replace(params, top_k=random.randint(1, 20))
        params = replace(params, logprobs=number % 2 == 0, top_logprobs=random.choice([0, 0, 5]))
        prompt = random_prompt(random, WIDE_VOCAB_SIZE)
        sequences.append(make_sequence(prompt, params, index=number % 3))
    return sequences


def test_rows_get_bitwise_equal_results_alone_and_in_a_batch() -> None:
    sequences, rows = wide_sequences(120), wide_logits(120)
    alone = [sample(rows[[row]], [sequence])[0] for row, sequence in enumerate(sequences)]
    assert sample(rows, sequences) == alone
    shuffled = Random(1).sample(range(120), 50)
    some = sample(rows[shuffled], [sequences[row] for row in shuffled])
    assert some == [alone[row] for row in shuffled]


def test_sampling_from_a_shortlist_equals_sampling_from_all_columns() -> None:
    sequences, rows = wide_sequences(400, seed=1)[::3], wide_logits(134, seed=1)
    sequences = [sequence for sequence in sequences if sequence.params.do_sample]
    assert len(sequences) > 80
    for sequence, row in zip(sequences, rows, strict=False):
        [sampled] = sample(row[None], [sequence])
        scores = process(row[None].clone(), [sequence])
        number = uniforms([sequence.params.seed], [sequence.index], [0])
        if isinstance(sampled, SampledToken):
            assert sampled.token_id == multinomial(scores, torch.from_numpy(number)).item()
        else:
            assert not scores.amax() > -torch.inf


def test_samples_from_many_columns_follow_the_softmax() -> None:
    count, num_cells = 20_000, 40
    row = wide_logits(2)[1]
    sequences = [make_sequence([0], replace(SAMPLE, seed=seed)) for seed in range(count)]
    batches = [
        sample(row.expand(1_000, -1), sequences[start : start + 1_000])
        for start in range(0, count, 1_000)
    ]
    tokens = torch.tensor([token(s) for batch in batches for s in batch])
    counts = torch.bincount(tokens % num_cells, minlength=num_cells).double()
    shares = row.double().softmax(dim=-1).view(-1, num_cells).sum(dim=0)
    assert p_value(counts, shares) > 0.001


def test_log_probabilities_of_a_few_columns_equal_all_columns() -> None:
    params = replace(SAMPLE, top_k=7, temperature=0.8, logprobs=True, top_logprobs=3)
    row = wide_logits(2)[1:]
    sequence = make_sequence([0], params)
    [sampled] = sample(row, [sequence])
    assert isinstance(sampled, SampledToken)
    expected = process(row.clone(), [sequence])[0].log_softmax(dim=-1)
    best = expected.topk(3)
    assert sampled.logprob == pytest.approx(expected[sampled.token_id].item())
    assert sampled.top_logprobs is not None
    assert list(sampled.top_logprobs) == best.indices.tolist()
    assert list(sampled.top_logprobs.values()) == pytest.approx(best.values.tolist())


def test_removing_impossible_tokens_does_not_change_the_sampled_token() -> None:
    """This lets the sampler read the kept columns alone."""
    row = logits()
    row[0, 10:] = -torch.inf
    for seed in range(200):
        sequence = make_sequence([0], replace(SAMPLE, seed=seed))
        assert sample(row, [sequence]) == sample(row[:, :10], [sequence])


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 3), (1 - 2**-53, 29)])
def test_an_impossible_token_is_never_drawn_not_even_at_the_edges(
    monkeypatch: pytest.MonkeyPatch, uniform: float, expected: int
) -> None:
    rows = logits(100)  # enough for probabilities with a sum slightly above 1
    rows[:, :3] = rows[:, 30:] = -torch.inf
    edge = torch.full((100,), uniform, dtype=torch.float64).numpy()
    monkeypatch.setattr("worker.engine.sampling.sampler.uniforms", lambda *_: edge)
    results = sample(rows, [make_sequence([0], SAMPLE) for _ in range(100)])
    assert {token(result) for result in results} == {expected}


def test_positions_count_generated_tokens_whatever_the_prompt() -> None:
    row = logits()
    for seed in range(20):
        params = replace(SAMPLE, seed=seed)
        short = make_sequence([0], params, generated=(1, 2))
        long = make_sequence([0] * 9, params, generated=(1, 2))
        assert sample(row, [short]) == sample(row, [long])


def test_greedy_takes_the_first_of_equal_tokens() -> None:
    row = torch.zeros(1, VOCAB_SIZE)
    row[0, [4, 9]] = 1.0
    assert sample(row, [make_sequence([0])]) == [SampledToken(4)]


@given(
    st.lists(
        st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 2.0, math.inf, math.nan]), min_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_greedy_rows_get_the_same_tokens_alone_and_with_a_row_of_other_parameters(
    values: list[list[float]],
) -> None:
    width = min(map(len, values))
    rows = torch.tensor([row[:width] for row in values])
    greedy = [make_sequence([0]) for _ in values]
    other = make_sequence([0], SamplingParams(suppress_tokens=(1,), logprobs=True))
    *together, _ = sample(torch.cat([rows, torch.zeros(1, width)]), [*greedy, other])
    assert sample(rows, greedy) == together


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [SAMPLE, SamplingParams(), replace(SAMPLE, typical_p=0.9)])
def test_an_invalid_row_fails_and_the_other_rows_get_tokens(
    bad: float, params: SamplingParams
) -> None:
    rows = logits(3)
    rows[1, 5] = bad
    sequences = [make_sequence([0], params) for _ in range(3)]
    first, second, third = sample(rows, sequences)
    assert isinstance(second, SamplingFailure)
    assert "nan or inf" in second.reason
    assert second.cause is FailureCause.MODEL
    others = sample(rows[[0, 2]], [sequences[0], sequences[2]])
    assert [first, third] == others


def test_sampling_with_every_token_banned_fails() -> None:
    params = replace(SAMPLE, suppress_tokens=tuple(range(VOCAB_SIZE)))
    [sampled] = sample(logits(), [make_sequence([0], params)])
    assert isinstance(sampled, SamplingFailure)
    assert "ban every token" in sampled.reason
    assert sampled.cause is FailureCause.PARAMETERS


def test_greedy_where_every_token_is_banned_has_no_log_probability() -> None:
    everything = tuple(range(VOCAB_SIZE))
    params = SamplingParams(logprobs=True, top_logprobs=2, suppress_tokens=everything)
    assert sample(logits(), [make_sequence([0], params)]) == [SampledToken(0, None, {})]


def test_log_probabilities_are_of_the_processed_scores() -> None:
    params = SamplingParams(logprobs=True, top_logprobs=3, suppress_tokens=(0, 1, 2))
    row = logits()
    [sampled] = sample(row, [make_sequence([0], params)])
    assert isinstance(sampled, SampledToken)
    processed = row[0].clone()
    processed[:3] = -torch.inf
    best = processed.log_softmax(dim=-1).topk(3)
    assert sampled.top_logprobs is not None
    assert list(sampled.top_logprobs) == best.indices.tolist()
    assert list(sampled.top_logprobs.values()) == pytest.approx(best.values.tolist())
    assert sampled.logprob == sampled.top_logprobs[sampled.token_id]


def test_ruled_out_tokens_do_not_appear_among_the_likeliest() -> None:
    params = replace(SAMPLE, top_k=2, top_logprobs=5)
    [sampled] = sample(logits(), [make_sequence([0], params)])
    assert isinstance(sampled, SampledToken)
    assert sampled.logprob is None
    assert sampled.top_logprobs is not None
    assert len(sampled.top_logprobs) == 2


def test_no_rows_give_no_tokens() -> None:
    no_sequences: list[Sequence] = []
    assert sample(torch.empty(0, VOCAB_SIZE), no_sequences) == []


@pytest.mark.parametrize("rows", [logits(), torch.zeros(1, 0)], ids=["sampled", "failed"])
def test_torch_has_its_threads_again_afterwards(rows: torch.Tensor) -> None:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with suppress(Exception):
            sample(rows, [make_sequence([0])])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)
