"""Beam search alone, over transformers' logits, compared with transformers' beam search.

test_exactness.py and test_hypothesis.py compare it in batches.
"""

from dataclasses import replace
from random import Random

import pytest
import torch

from tests.worker.engine.oracle import END_OF_TEXT_ID, Answer, Oracle, answers
from tests.worker.engine.random_params import random_greedy_params, random_prompt
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import SamplingParams
from worker.engine.beam.hypothesis import Beam
from worker.engine.beam.search import BeamSearch
from worker.engine.text.detokenizer import StopStrings, TokenBytes
from worker.model.tokenizer.tokenizer_files import load_tokenizer

NUM_MIXES = 50
CLOSE = 1e-4  # relative to what is above 1

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")


@torch.no_grad()
def search(oracle: Oracle, prompt: list[int], params: SamplingParams) -> list[Answer]:
    """Run BeamSearch; every step computes all rows from the start."""
    token_bytes = TokenBytes(load_tokenizer(oracle.path))
    beams = BeamSearch(params, Beam((), StopStrings(token_bytes, params.stop_strings, prompt)))
    running: list[tuple[int, ...]] = [()]
    while running:
        sequences = [make_sequence(prompt, params, generated=tokens) for tokens in running]
        input_ids = torch.tensor([sequence.token_ids for sequence in sequences])
        output = oracle.model(input_ids, attention_mask=torch.ones_like(input_ids))
        successors = beams.advance(beams.propose(output.logits[:, -1], sequences))
        running = [(*running[s.parent], s.token_id) for s in successors]
    return [
        Answer(
            [token.token_id for token in hypothesis.beam.tokens],
            [token.logprob for token in hypothesis.beam.tokens],
            hypothesis.score,
        )
        for hypothesis in beams.hypotheses()
    ]


def check(oracle: Oracle, prompt: list[int], params: SamplingParams) -> list[Answer]:
    found, expected = search(oracle, prompt, params), answers(oracle, prompt, params)
    assert [a.token_ids for a in found] == [a.token_ids for a in expected], params
    assert [a.score for a in found] == pytest.approx(
        [a.score for a in expected], rel=CLOSE, abs=CLOSE
    )
    for answer, theirs in zip(found, expected, strict=True):
        assert answer.logprobs == pytest.approx(theirs.logprobs, rel=CLOSE, abs=CLOSE)
    return found


def random_beam_params(random: Random, vocab_size: int) -> SamplingParams:
    params = random_greedy_params(random, vocab_size)
    num_beams = random.choice([2, 3, 4, 6])
    return replace(
        params,
        max_new_tokens=random.choice([1, 2, 5, 9, 14]),
        num_beams=num_beams,
        num_return_sequences=random.randint(1, num_beams),
        early_stopping=random.choice([False, True, "never"]),
        length_penalty=random.choice([1.0, 0.0, -1.5, 2.0, 0.6]),
        stop_strings=random.choice([(), ("e",), ("th", " ")]) if params.eos_token_ids else (),
    )


def test_random_mixes_find_what_transformers_finds(oracle: Oracle) -> None:
    random = Random(0)
    num_ended = 0
    for _ in range(NUM_MIXES):
        params = random_beam_params(random, oracle.vocab_size)
        found = check(oracle, random_prompt(random, oracle.vocab_size), params)
        num_ended += any(len(answer.token_ids) < params.max_new_tokens for answer in found)
    assert num_ended > 2, "nothing ends before its full length"


def test_beams_with_too_few_candidates_continue_as_in_transformers(
    oracle: Oracle,
) -> None:
    """Scores of -inf and of -1e9, beams that are equal, sequences that never came to be."""
    random = Random(1)
    for _ in range(NUM_MIXES):
        allowed = set(random.sample(range(oracle.vocab_size), random.choice([0, 1, 2, 3, 5])))
        allowed |= random.choice([set(), {END_OF_TEXT_ID}])
        params = replace(
            random_beam_params(random, oracle.vocab_size),
            eos_token_ids=random.choice([(END_OF_TEXT_ID,), (END_OF_TEXT_ID, 12, 13)]),
            suppress_tokens=tuple(set(range(oracle.vocab_size)) - allowed),
            forced_bos_token_id=None,
            forced_eos_token_ids=(),
            exponential_decay_length_penalty=None,
        )
        check(oracle, random_prompt(random, oracle.vocab_size), params)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("bias", [8.0, 15.0, 30.0])
def test_an_eos_that_comes_early_or_at_once_ends_beams_where_transformers_ends_them(
    oracle: Oracle, bias: float, early_stopping: bool
) -> None:
    random = Random(2)
    for length_penalty in (-1.0, 1.0, 3.0):
        params = SamplingParams(
            max_new_tokens=9,
            eos_token_ids=(END_OF_TEXT_ID, 20),
            sequence_bias=(((END_OF_TEXT_ID,), bias),),
            num_beams=4,
            num_return_sequences=4,
            early_stopping=early_stopping,
            length_penalty=length_penalty,
        )
        found = check(oracle, random_prompt(random, oracle.vocab_size), params)
        assert any(answer.token_ids[-1] == END_OF_TEXT_ID for answer in found)


def test_most_of_the_vocabulary_may_be_an_eos(oracle: Oracle) -> None:
    random = Random(3)
    for _ in range(5):
        eos = tuple(random.sample(range(oracle.vocab_size), oracle.vocab_size - 40))
        params = SamplingParams(
            max_new_tokens=6, eos_token_ids=eos, num_beams=3, num_return_sequences=3
        )
        check(oracle, random_prompt(random, oracle.vocab_size), params)


def test_proposing_twice_changes_nothing(oracle: Oracle) -> None:
    """A step that another request made fail is computed again."""
    params = SamplingParams(num_beams=3, do_sample=True, seed=4)
    token_bytes = TokenBytes(load_tokenizer(oracle.path))
    beams = BeamSearch(params, Beam((), StopStrings(token_bytes, (), [20])))
    logits = torch.randn(1, oracle.vocab_size, generator=torch.Generator().manual_seed(0))
    first, second = (beams.propose(logits, [make_sequence([20], params)]) for _ in range(2))
    assert first[0].successors(list(range(6))) == second[0].successors(list(range(6)))
    assert len(beams.advance(second)) == 3
