"""Beam-sample: the distribution of transformers, and results that depend on the seed alone."""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.oracle import END_OF_TEXT_ID, Oracle, to_generate_kwargs
from tests.worker.engine.sampling.chi_square import p_value
from tests.worker.engine.workload import ScheduledRequest, run_all
from worker.engine import Engine, EngineConfig, SamplingParams
from worker.engine.beam.candidates import LOSING_SCORE, Candidates, expand_beams
from worker.engine.beam.hypothesis import Beam
from worker.engine.text.detokenizer import StopStrings, TokenBytes
from worker.model.tokenizer.tokenizer_files import load_tokenizer

PROMPT = (20, 30, 40, 20, 30)
# Few sequences are possible, so that each is sampled often: 6 tokens, one of which ends.
FEW = (END_OF_TEXT_ID, 60, 61, 62, 63, 64)
PARAMS = SamplingParams(
    do_sample=True,
    num_beams=2,
    max_new_tokens=3,
    temperature=2.0,
    eos_token_ids=(END_OF_TEXT_ID,),
    suppress_tokens=tuple(set(range(512)) - set(FEW)),
)
NUM_OURS, NUM_THEIRS = 1_000, 6_000
LARGE = EngineConfig(max_rows=64, num_blocks=256, max_step_tokens=512)


@pytest.fixture(scope="module")
def root(oracles: dict[str, Oracle]) -> Beam:
    token_bytes = TokenBytes(load_tokenizer(oracles["7b"].path))
    return Beam((), StopStrings(token_bytes, (), PROMPT))


def sample(root: Beam, scores: torch.Tensor, seed: int) -> Candidates:
    """Four candidates for the first step of two beams; `scores` [vocab]."""
    beam_scores = torch.tensor([0.0, LOSING_SCORE])
    return expand_beams([root], beam_scores, scores[None], replace(PARAMS, seed=seed))


def load(oracle: Oracle, config: EngineConfig) -> Engine:
    return Engine.from_pretrained(str(oracle.path), dtype="float32", config=config)


def test_candidates_are_sampled_without_replacement(root: Beam) -> None:
    probabilities = torch.tensor([0.05, 0.5, 0.15, 0.2, 0.1])
    drawn = Counter(
        tuple(s.token_id for s in sample(root, probabilities.log(), seed).successors([0, 1, 2]))
        for seed in range(3_000)
    )
    expected = {}
    for first, second, third in permutations(range(5), 3):
        p, q, r = probabilities[[first, second, third]].tolist()
        expected[first, second, third] = p * q / (1 - p) * r / (1 - p - q)
    counts = torch.tensor([drawn[order] for order in expected])
    assert counts.sum() == 3_000
    assert p_value(counts, torch.tensor(list(expected.values()))) > 0.001


def test_impossible_candidates_come_last(root: Beam) -> None:
    scores = torch.tensor([-torch.inf, 0.0, -torch.inf, -1.0])
    candidates = sample(root, scores, seed=0)
    # The second beam repeats the first: both have only the possible tokens, none twice.
    assert sorted(s.token_id for s in candidates.successors([0, 1])) == [1, 3]
    assert candidates.scores[:2].min() >= -1.0
    assert candidates.scores[2:].tolist() == [LOSING_SCORE] * 2
    only = sample(root, torch.tensor([-torch.inf, 0.0, -torch.inf]), seed=0)
    assert only.scores.tolist() == [0.0, LOSING_SCORE, -torch.inf, -torch.inf]


def test_candidates_are_the_same_however_many_tokens_are_ruled_out(root: Beam) -> None:
    few = torch.randn(30, generator=torch.Generator().manual_seed(0))
    many = torch.full((40_000,), -torch.inf)
    many[:30] = few
    for seed in range(20):
        assert sample(root, few, seed).successors([0, 1, 2, 3]) == sample(
            root, many, seed
        ).successors([0, 1, 2, 3])


def transformers_counts(oracle: Oracle, params: SamplingParams) -> Counter[tuple[int, ...]]:
    """Count the best sequences of many searches of transformers, without padding."""
    counts: Counter[tuple[int, ...]] = Counter()
    batch = torch.tensor([PROMPT]).expand(1_000, -1)
    torch.manual_seed(0)
    for _ in range(NUM_THEIRS // len(batch)):
        output = oracle.model.generate(
            batch, attention_mask=torch.ones_like(batch), **to_generate_kwargs(params)
        )
        for row in output[:, len(PROMPT) :].tolist():
            end = row.index(END_OF_TEXT_ID) + 1 if END_OF_TEXT_ID in row else len(row)
            counts[tuple(row[:end])] += 1
    return counts


def test_sequences_are_sampled_as_often_as_by_transformers(oracles: dict[str, Oracle]) -> None:
    oracle = oracles["7b"]
    theirs = transformers_counts(oracle, PARAMS)
    scheduled_requests = tuple(
        ScheduledRequest(PROMPT, replace(PARAMS, seed=seed)) for seed in range(NUM_OURS)
    )
    ours = Counter(tuple(r.token_ids(0)) for r in run_all(load(oracle, LARGE), scheduled_requests))
    outcomes = sorted(theirs)
    assert len(outcomes) > 20
    # The counts of many searches of transformers stand for its distribution.
    shares = torch.tensor([theirs[outcome] for outcome in outcomes]) / NUM_THEIRS
    counts = torch.tensor([ours[outcome] for outcome in outcomes])
    assert counts.sum() >= NUM_OURS - 5, "sequences that transformers never sampled"
    assert p_value(counts, shares) > 0.001


@pytest.mark.parametrize("style", STYLES)
def test_the_seed_determines_the_result_alone_and_in_a_batch(
    oracles: dict[str, Oracle], style: str
) -> None:
    oracle = oracles[style]
    params = SamplingParams(
        do_sample=True, num_beams=3, num_return_sequences=2, max_new_tokens=6, top_p=0.95
    )
    scheduled_requests = tuple(
        ScheduledRequest(PROMPT[: 1 + n % 5], replace(params, seed=n)) for n in range(30)
    )
    engine = load(oracle, EngineConfig(max_rows=3, num_blocks=16))
    alone = [run_all(engine, (scheduled,))[0] for scheduled in scheduled_requests]
    for result, expected in zip(
        run_all(load(oracle, LARGE), scheduled_requests), alone, strict=True
    ):
        for rank in range(2):
            assert result.token_ids(rank) == expected.token_ids(rank)
    assert len({tuple(result.token_ids(0)) for result in alone}) > 15
