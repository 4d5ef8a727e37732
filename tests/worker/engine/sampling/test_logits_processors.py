"""Our processors against transformers' own, on the same logits and prefixes, bit for bit."""

from dataclasses import replace
from random import Random

import pytest
import torch

from tests.worker.engine import oracle as transformers_oracle
from tests.worker.engine.oracle import Oracle
from tests.worker.engine.random_params import (
    random_greedy_params,
    random_prompt,
    random_sampling_params,
)
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.sampling.logits_processors import (
    IN_PLACE_PROCESSORS,
    ROW_PROCESSORS,
    make_pipeline,
    process,
)
from worker.engine.sampling.logits_processors.bans import Grammar
from worker.engine.sampling.logits_processors.penalties import GeneratedTokenPenalties
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence

VOCAB_SIZE = 512


def assert_equal_to_transformers(
    oracle: Oracle, ours: torch.Tensor, logits: torch.Tensor, sequence: Sequence
) -> None:
    """Compare one row bit for bit; nan, from normalizing a row with every token banned, equals nan.

    Which of equal scores top-p and beams keep depends on torch's sort for this machine.
    """
    theirs = transformers_oracle.process(oracle.model, sequence, logits)
    is_cut_in_ties = sequence.params.top_p < 1.0 or sequence.params.num_beams > 1
    if is_cut_in_ties and len(logits.unique()) < len(logits):
        ours, theirs = ours.sort().values, theirs.sort().values
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{m}\n{sequence.params}"
    )


def random_sequence(random: Random, number: int) -> Sequence:
    make_params = random_greedy_params if number % 2 else random_sampling_params
    params = make_params(random, VOCAB_SIZE)
    prompt = random_prompt(random, VOCAB_SIZE, random.choice([1, 2, 24]))
    palette = [*prompt, *random.sample(range(VOCAB_SIZE), 3)]
    length = random.choice([0, params.max_new_tokens - 1, random.randrange(params.max_new_tokens)])
    return make_sequence(prompt, params, generated=tuple(random.choices(palette, k=length)))


def random_logits(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    logits = torch.randn(VOCAB_SIZE, generator=generator) * 3
    if number % 7 == 0:  # ties, as coarse dtypes make them
        logits = logits.round()
    return logits


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_random_mixes_equal_transformers_bit_for_bit(oracle: Oracle) -> None:
    random = Random(0)
    for number in range(600):
        sequence, logits = random_sequence(random, number), random_logits(number)
        assert_equal_to_transformers(
            oracle, process(logits[None].clone(), [sequence])[0], logits, sequence
        )


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_rows_processed_together_equal_transformers_one_by_one(oracle: Oracle) -> None:
    random = Random(1)
    for size in [2, 3, 8, 32] * 8:
        sequences = [random_sequence(random, number) for number in range(size)]
        logits = torch.stack([random_logits(number) for number in range(size)])
        ours = process(logits.clone(), sequences)
        for row, sequence in enumerate(sequences):
            assert_equal_to_transformers(oracle, ours[row], logits[row], sequence)


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_beams_keep_a_token_besides_every_eos_as_in_transformers(oracle: Oracle) -> None:
    random = Random(2)
    for number in range(300):
        params = replace(random_sampling_params(random, VOCAB_SIZE), num_beams=2 + number % 3)
        sequence = make_sequence(random_prompt(random, VOCAB_SIZE), params)
        scores = random_logits(number).log_softmax(dim=-1)
        ours = process(scores[None].clone(), [sequence])[0]
        assert_equal_to_transformers(oracle, ours, scores, sequence)


def test_a_row_comes_out_the_same_to_the_last_bit_alone_and_together() -> None:
    random = Random(3)
    sequences = [random_sequence(random, number) for number in range(64)]
    logits = torch.randn(64, 5_000, generator=torch.Generator().manual_seed(0)) * 3
    together = process(logits.clone(), sequences)
    for row, sequence in enumerate(sequences):
        alone = process(logits[[row]], [sequence])[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_invalid_values_are_repaired_as_transformers_does(oracle: Oracle) -> None:
    logits = random_logits(0)
    logits[3], logits[4], logits[5] = torch.nan, torch.inf, -torch.inf
    sequence = make_sequence([1, 2], SamplingParams(remove_invalid_values=True))
    assert_equal_to_transformers(
        oracle, process(logits[None].clone(), [sequence])[0], logits, sequence
    )


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_biases_of_sequences_that_end_in_the_same_token_add_up(oracle: Oracle) -> None:
    biases = (((5,), 1.5), ((3, 5), -4.25), ((2, 3, 5), 0.5), ((9, 5), 7.0))
    sequence = make_sequence([2, 3], SamplingParams(sequence_bias=biases))
    logits = random_logits(0)
    ours = process(logits[None].clone(), [sequence])[0]
    assert_equal_to_transformers(oracle, ours, logits, sequence)
    assert ours[5] == logits[5] - 2.25


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_top_p_removes_a_tail_of_exactly_the_share_that_may_go(oracle: Oracle) -> None:
    logits = torch.full((VOCAB_SIZE,), -1e30)
    logits[100:104] = 0.0
    sequence = make_sequence([1], SamplingParams(do_sample=True, top_p=0.5))
    ours = process(logits[None].clone(), [sequence])[0]
    assert_equal_to_transformers(oracle, ours, logits, sequence)
    assert (ours == 0.0).sum() == 2


def test_an_eos_beyond_the_vocabulary_is_passed_over() -> None:
    params = SamplingParams(min_length=9, eos_token_ids=(7, VOCAB_SIZE, VOCAB_SIZE + 9))
    logits = random_logits(0)
    scores = process(logits[None].clone(), [make_sequence([1], params)])[0]
    assert (scores != logits).nonzero().tolist() == [[7]]


def test_the_random_mixes_use_every_processor_of_transformers() -> None:
    random = Random(0)
    pipelines = [random_sequence(random, n).pipeline for n in range(600)]
    ours = GeneratedTokenPenalties | Grammar
    others = [p for p in IN_PLACE_PROCESSORS if not isinstance(p, ours)]
    assert {p for pipeline in pipelines for p in pipeline.in_place_processors} == {*others}
    assert {p for pipeline in pipelines for p in pipeline.row_processors} == {*ROW_PROCESSORS}


def test_parameters_at_their_neutral_values_need_no_processor() -> None:
    neutral = SamplingParams(
        do_sample=True, min_new_tokens=0, top_k=0, eos_token_ids=(1,), repetition_penalty=1.0
    )
    assert not make_pipeline(neutral).in_place_processors
    assert not make_pipeline(neutral).row_processors


def test_warpers_are_ignored_in_greedy_mode() -> None:
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, typical_p=0.5)
    assert not make_pipeline(params).row_processors


def test_a_decay_too_large_for_a_float_makes_eos_certain() -> None:
    params = SamplingParams(
        max_new_tokens=2000, eos_token_ids=(7,), exponential_decay_length_penalty=(0, 10.0)
    )
    sequence = make_sequence([1], params, generated=(2,) * 400)
    assert process(torch.ones(1, VOCAB_SIZE), [sequence]).argmax().item() == 7
