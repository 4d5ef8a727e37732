"""The engine samples tokens with the probabilities of transformers."""

from collections import Counter
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.oracle import END_OF_TEXT_ID, Oracle, next_scores
from tests.worker.engine.oracle_check import OracleCheck
from tests.worker.engine.sampling.chi_square import p_value
from tests.worker.engine.workload import Result, ScheduledRequest, run_all
from worker.engine import EngineConfig, SamplingParams

NUM_REQUESTS = 300
NUM_SEQUENCES = 8  # of each
CONFIG = EngineConfig(max_rows=48, num_blocks=4 * 48, max_step_tokens=256)
PROMPT = (20, 30, 40, 20, 30)

# Each changes the distribution enough for the test to notice if it did not act.
MIXES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.8},
    "top_k": {"top_k": 20, "temperature": 1.5},
    "top_p": {"top_p": 0.8},
    "top_k and top_p": {"top_k": 50, "top_p": 0.95, "temperature": 1.4},
    "min_p": {"min_p": 0.05},
    "typical_p": {"typical_p": 0.7},
    "typical_p after top_k": {"typical_p": 0.8, "top_k": 60},
    "epsilon_cutoff": {"epsilon_cutoff": 0.004},
    "eta_cutoff": {"eta_cutoff": 0.01},
    "repetition_penalty": {"repetition_penalty": 1.9, "temperature": 2.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "top_k": 30},
    "sequence_bias": {"sequence_bias": tuple(((30, i), 2.0) for i in range(0, 512, 2))},
    "bad_words_ids": {"bad_words_ids": tuple((i,) for i in range(1, 512, 2)), "top_p": 0.99},
    "eos and suppression": {
        "eos_token_ids": (END_OF_TEXT_ID,),
        "min_new_tokens": 2,
        "suppress_tokens": tuple(range(0, 512, 3)),
        "renormalize_logits": True,
    },
}


def sample(checker: OracleCheck, style: str, params: SamplingParams) -> list[Result]:
    """Return the results of many requests, each with its own seed."""
    scheduled_requests = tuple(
        ScheduledRequest(PROMPT, replace(params, seed=seed, num_return_sequences=NUM_SEQUENCES))
        for seed in range(NUM_REQUESTS)
    )
    return run_all(checker.engine(style, CONFIG), scheduled_requests)


def shares(oracle: Oracle, params: SamplingParams, generated: tuple[int, ...] = ()) -> torch.Tensor:
    """Return the probabilities [vocab], float64, of transformers for the next token."""
    scores = next_scores(oracle.model, list(PROMPT), params, list(generated))[-1]
    return scores.double().softmax(dim=-1)


@pytest.mark.parametrize(("style", "mix"), list(zip(cycle(STYLES), MIXES, strict=False)))
def test_tokens_are_sampled_as_often_as_by_transformers(
    oracles: dict[str, Oracle], style: str, mix: str
) -> None:
    params = SamplingParams(do_sample=True, max_new_tokens=1, **MIXES[mix])
    results = sample(OracleCheck(oracles), style, params)
    sampled = [r.token_ids(index)[0] for r in results for index in range(NUM_SEQUENCES)]
    counts = torch.bincount(torch.tensor(sampled), minlength=oracles[style].vocab_size)
    assert p_value(counts, shares(oracles[style], params)) > 0.001
    unprocessed = shares(oracles[style], SamplingParams(do_sample=True, max_new_tokens=1))
    assert p_value(counts, unprocessed) < 1e-6, "too few samples to detect a difference"


@pytest.mark.parametrize("style", STYLES)
def test_pairs_of_tokens_are_sampled_as_often_as_by_transformers(
    oracles: dict[str, Oracle], style: str
) -> None:
    """The second token depends on the first; pairs show random numbers that are not independent."""
    params = SamplingParams(do_sample=True, max_new_tokens=2, top_k=5, repetition_penalty=1.5)
    oracle = oracles[style]
    results = sample(OracleCheck(oracles), style, params)
    sampled = Counter(tuple(r.token_ids(i)) for r in results for i in range(NUM_SEQUENCES))
    expected = {
        (first, second): (p * q).item()
        for first, p in enumerate(shares(oracle, params))
        if p > 0
        for second, q in enumerate(shares(oracle, params, (first,)))
        if q > 0
    }
    assert set(sampled) <= set(expected)
    counts = torch.tensor([sampled[pair] for pair in expected])
    assert p_value(counts, torch.tensor(list(expected.values()))) > 0.001


# From tables: the 95 % and 99.9 % quantiles for one and four degrees of freedom.
@pytest.mark.parametrize(
    ("num_cells", "statistic", "expected"),
    [(2, 3.841, 0.05), (2, 10.828, 0.001), (5, 9.488, 0.05), (5, 18.467, 0.001)],
)
def test_p_values_equal_the_tables(num_cells: int, statistic: float, expected: float) -> None:
    """Equal cells; the excess of the first is the deficit of the second."""
    excess = (statistic * 10_000 / 2) ** 0.5
    counts = torch.full((num_cells,), 10_000.0, dtype=torch.float64)
    counts[0], counts[1] = counts[0] + excess, counts[1] - excess
    assert p_value(counts, counts.new_ones(num_cells) / num_cells) == pytest.approx(
        expected, rel=1e-2
    )


def test_counts_of_impossible_outcomes_have_p_value_0() -> None:
    assert p_value(torch.tensor([50, 49, 1]), torch.tensor([0.5, 0.5, 0.0])) == 0.0


def test_rare_outcomes_share_a_cell() -> None:
    """A thousand outcomes that are expected once each."""
    counts = torch.cat([torch.tensor([1000]), torch.ones(1000, dtype=torch.int64)])
    counts[1] += 3
    counts[2:5] = 0
    probabilities = torch.cat([torch.tensor([0.5]), torch.full((1000,), 0.0005)])
    assert p_value(counts, probabilities) > 0.99
