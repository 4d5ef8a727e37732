"""Draws: their distribution, their independence of the batch, rows that form no distribution."""

import math
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
import torch

from tests.worker.engine.random_params import (
    random_greedy_params,
    random_prompt,
    random_sampling_params,
)
from tests.worker.engine.sampling.chi_square import p_value
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.outputs import Blame
from worker.engine.sampling.logits_processors import process
from worker.engine.sampling.multinomial import draw
from worker.engine.sampling.philox import uniforms
from worker.engine.sampling.sampled_token import Choice, NoChoice
from worker.engine.sampling.sampler import choose_tokens
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence

VOCAB_SIZE = 40
WIDE_VOCAB_SIZE = 3_000  # many tiles, the last of which is not full
SAMPLE = SamplingParams(do_sample=True, max_new_tokens=100_000)


def logits(count: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, VOCAB_SIZE, generator=generator) * 2


def choose(rows: torch.Tensor, sequences: list[Sequence]) -> list[Choice | NoChoice]:
    """The choice of tokens spends the logits it gets: a copy here."""
    return choose_tokens(rows.clone(), sequences)


def token(choice: Choice | NoChoice) -> int:
    assert isinstance(choice, Choice)
    return choice.token_id


@pytest.mark.parametrize("varied", ["seed", "sequence", "position"])
def test_draws_follow_the_softmax_whatever_is_counted_up(varied: str) -> None:
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
    drawn = torch.tensor([token(c) for c in choose(row.expand(count, -1), sequences)])
    counts = torch.bincount(drawn, minlength=VOCAB_SIZE).double()
    assert p_value(counts, row.double().softmax(dim=-1)) > 0.001


def test_only_what_the_warpers_leave_is_drawn_in_its_renormalized_share() -> None:
    count = 20_000
    row = logits()[0]
    params = replace(SAMPLE, top_k=5, temperature=1.7)
    sequences = [make_sequence([0], replace(params, seed=seed)) for seed in range(count)]
    drawn = torch.tensor([token(c) for c in choose(row.expand(count, -1), sequences)])
    best = row.topk(5)
    counts = torch.bincount(drawn, minlength=VOCAB_SIZE)[best.indices].double()
    assert counts.sum() == count
    shares = (best.values.double() / 1.7).softmax(dim=-1)
    assert p_value(counts, shares) > 0.001


def test_a_draw_is_the_same_alone_and_in_mixed_company() -> None:
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
    alone = [choose(rows[[i]], [s])[0] for i, s in enumerate(sequences)]
    assert choose(rows, sequences) == alone


def wide_logits(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, WIDE_VOCAB_SIZE, generator=generator) * 3
    rows[::5] = rows[::5].round()  # ties, as coarse dtypes make them
    return rows


def wide_sequences(count: int, seed: int = 0) -> list[Sequence]:
    """All sorts of parameters; a third has a top-k that leaves a few of the many columns."""
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


def test_rows_of_all_sorts_choose_the_same_to_the_last_bit_alone_and_together() -> None:
    sequences, rows = wide_sequences(120), wide_logits(120)
    alone = [choose(rows[[row]], [sequence])[0] for row, sequence in enumerate(sequences)]
    assert choose(rows, sequences) == alone
    shuffled = Random(1).sample(range(120), 50)
    some = choose(rows[shuffled], [sequences[row] for row in shuffled])
    assert some == [alone[row] for row in shuffled]


def test_what_is_drawn_of_a_few_columns_would_be_drawn_of_all() -> None:
    sequences, rows = wide_sequences(400, seed=1)[::3], wide_logits(134, seed=1)
    sequences = [sequence for sequence in sequences if sequence.params.do_sample]
    assert len(sequences) > 80
    for sequence, row in zip(sequences, rows, strict=False):
        [choice] = choose(row[None], [sequence])
        scores = process(row[None].clone(), [sequence])
        number = uniforms([sequence.params.seed], [sequence.index], [0])
        if isinstance(choice, Choice):
            assert choice.token_id == draw(scores, torch.from_numpy(number)).item()
        else:
            assert not scores.amax() > -torch.inf


def test_draws_from_all_of_many_columns_follow_the_softmax() -> None:
    count, num_cells = 20_000, 40
    row = wide_logits(2)[1]
    sequences = [make_sequence([0], replace(SAMPLE, seed=seed)) for seed in range(count)]
    chosen = [
        choose(row.expand(1_000, -1), sequences[start : start + 1_000])
        for start in range(0, count, 1_000)
    ]
    drawn = torch.tensor([token(choice) for choices in chosen for choice in choices])
    counts = torch.bincount(drawn % num_cells, minlength=num_cells).double()
    shares = row.double().softmax(dim=-1).view(-1, num_cells).sum(dim=0)
    assert p_value(counts, shares) > 0.001


def test_log_probabilities_of_a_few_columns_are_those_of_all() -> None:
    params = replace(SAMPLE, top_k=7, temperature=0.8, logprobs=True, top_logprobs=3)
    row = wide_logits(2)[1:]
    sequence = make_sequence([0], params)
    [choice] = choose(row, [sequence])
    assert isinstance(choice, Choice)
    expected = process(row.clone(), [sequence])[0].log_softmax(dim=-1)
    best = expected.topk(3)
    assert choice.logprob == pytest.approx(expected[choice.token_id].item())
    assert choice.top_logprobs is not None
    assert list(choice.top_logprobs) == best.indices.tolist()
    assert list(choice.top_logprobs.values()) == pytest.approx(best.values.tolist())


def test_dropping_hopeless_tokens_does_not_change_a_draw() -> None:
    """What lets the sampler look at the kept columns alone."""
    row = logits()
    row[0, 10:] = -torch.inf
    for seed in range(200):
        sequence = make_sequence([0], replace(SAMPLE, seed=seed))
        assert choose(row, [sequence]) == choose(row[:, :10], [sequence])


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 3), (1 - 2**-53, 29)])
def test_an_impossible_token_is_never_drawn_not_even_at_the_edges(
    monkeypatch: pytest.MonkeyPatch, uniform: float, expected: int
) -> None:
    rows = logits(100)  # enough for probabilities that add up to a little more than 1
    rows[:, :3] = rows[:, 30:] = -torch.inf
    edge = torch.full((100,), uniform, dtype=torch.float64).numpy()
    monkeypatch.setattr("worker.engine.sampling.sampler.uniforms", lambda *_: edge)
    choices = choose(rows, [make_sequence([0], SAMPLE) for _ in range(100)])
    assert {token(choice) for choice in choices} == {expected}


def test_positions_count_generated_tokens_whatever_the_prompt() -> None:
    row = logits()
    for seed in range(20):
        params = replace(SAMPLE, seed=seed)
        short = make_sequence([0], params, generated=(1, 2))
        long = make_sequence([0] * 9, params, generated=(1, 2))
        assert choose(row, [short]) == choose(row, [long])


def test_greedy_takes_the_first_of_the_best() -> None:
    row = torch.zeros(1, VOCAB_SIZE)
    row[0, [4, 9]] = 1.0
    assert choose(row, [make_sequence([0])]) == [Choice(4)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [SAMPLE, SamplingParams(), replace(SAMPLE, typical_p=0.9)])
def test_an_invalid_row_has_no_choice_and_its_neighbours_do(
    bad: float, params: SamplingParams
) -> None:
    rows = logits(3)
    rows[1, 5] = bad
    sequences = [make_sequence([0], params) for _ in range(3)]
    first, second, third = choose(rows, sequences)
    assert isinstance(second, NoChoice)
    assert "nan or inf" in second.reason
    assert second.blame is Blame.MODEL
    neighbours = choose(rows[[0, 2]], [sequences[0], sequences[2]])
    assert [first, third] == neighbours


def test_sampling_where_every_token_is_banned_has_no_choice() -> None:
    params = replace(SAMPLE, suppress_tokens=tuple(range(VOCAB_SIZE)))
    [choice] = choose(logits(), [make_sequence([0], params)])
    assert isinstance(choice, NoChoice)
    assert "ban every token" in choice.reason
    assert choice.blame is Blame.PARAMETERS


def test_greedy_where_every_token_is_banned_has_no_log_probability() -> None:
    everything = tuple(range(VOCAB_SIZE))
    params = SamplingParams(logprobs=True, top_logprobs=2, suppress_tokens=everything)
    assert choose(logits(), [make_sequence([0], params)]) == [Choice(0, None, {})]


def test_log_probabilities_are_those_of_the_processed_scores() -> None:
    params = SamplingParams(logprobs=True, top_logprobs=3, suppress_tokens=(0, 1, 2))
    row = logits()
    [choice] = choose(row, [make_sequence([0], params)])
    assert isinstance(choice, Choice)
    processed = row[0].clone()
    processed[:3] = -torch.inf
    best = processed.log_softmax(dim=-1).topk(3)
    assert choice.top_logprobs is not None
    assert list(choice.top_logprobs) == best.indices.tolist()
    assert list(choice.top_logprobs.values()) == pytest.approx(best.values.tolist())
    assert choice.logprob == choice.top_logprobs[choice.token_id]


def test_ruled_out_tokens_do_not_appear_among_the_likeliest() -> None:
    params = replace(SAMPLE, top_k=2, top_logprobs=5)
    [choice] = choose(logits(), [make_sequence([0], params)])
    assert isinstance(choice, Choice)
    assert choice.logprob is None
    assert choice.top_logprobs is not None
    assert len(choice.top_logprobs) == 2


def test_no_rows_give_no_choices() -> None:
    nobody: list[Sequence] = []
    assert choose(torch.empty(0, VOCAB_SIZE), nobody) == []


@pytest.mark.parametrize("rows", [logits(), torch.zeros(1, 0)], ids=["chosen", "failed"])
def test_torch_has_its_threads_again_afterwards(rows: torch.Tensor) -> None:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with suppress(Exception):
            choose(rows, [make_sequence([0])])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)
