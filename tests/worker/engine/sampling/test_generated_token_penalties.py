"""Presence and frequency penalties against their formula; transformers has none."""

from random import Random

import torch

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.sampling.logits_processors import process
from worker.engine.sampling_params import SamplingParams

VOCAB_SIZE = 64


def penalized(
    logits: list[float], generated: list[int], frequency: float, presence: float
) -> list[float]:
    """Return OpenAI's formula: logit - count * frequency - (count > 0) * presence."""
    counts = [generated.count(token_id) for token_id in range(len(logits))]
    return [
        logit - count * frequency - (count > 0) * presence
        for logit, count in zip(logits, counts, strict=True)
    ]


def random_params(random: Random) -> SamplingParams:
    return SamplingParams(
        frequency_penalty=random.choice([0.0, random.uniform(-2, 2)]),
        presence_penalty=random.choice([0.0, random.uniform(-2, 2)]),
    )


def test_generated_tokens_are_penalized_and_prompts_are_not() -> None:
    random = Random(0)
    for size in [1, 2, 7] * 20:
        params = [random_params(random) for _ in range(size)]
        generated = [random.choices(range(12), k=random.randint(0, 30)) for _ in params]
        sequences = [
            make_sequence([3, 3, 5], one, generated=tuple(tokens))
            for one, tokens in zip(params, generated, strict=True)
        ]
        logits = torch.randn(size, VOCAB_SIZE, generator=torch.Generator().manual_seed(size))
        ours = process(logits.clone(), sequences)
        for row, (one, tokens) in enumerate(zip(params, generated, strict=True)):
            expected = penalized(
                logits[row].tolist(), tokens, one.frequency_penalty, one.presence_penalty
            )
            torch.testing.assert_close(ours[row], torch.tensor(expected), rtol=0, atol=1e-4)


def test_counts_follow_tokens_drafts_and_copies() -> None:
    params = SamplingParams(frequency_penalty=1.0, presence_penalty=0.5)
    sequence = make_sequence([1, 2], params, generated=(4,))
    logits = torch.zeros(1, VOCAB_SIZE)
    for tokens in ([4], [4, 4, 7], [4, 4, 7, 1]):
        sequence.token_ids[2:] = tokens
        drafted = sequence.extended_by((7, 7))
        for view, generated in ((sequence, tokens), (drafted, [*tokens, 7, 7])):
            expected = penalized([0.0] * VOCAB_SIZE, generated, 1.0, 0.5)
            assert process(logits.clone(), [view])[0].tolist() == expected


def test_repetition_penalty_comes_before_them_as_in_vllm() -> None:
    params = SamplingParams(repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=0.5)
    sequence = make_sequence([9], params, generated=(4, 4))
    scores = process(torch.full((1, VOCAB_SIZE), 3.0), [sequence])[0]
    assert (scores[4].item(), scores[9].item(), scores[5].item()) == (3 / 2 - 2 - 0.5, 1.5, 3.0)
