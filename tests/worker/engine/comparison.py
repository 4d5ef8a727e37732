"""Compares the result of a request with the output of transformers for its prompt alone.

Greedy and beams: token for token. Sampling: its uniform number selects each token from
transformers' own distribution. Log-probabilities and scores within 1e-4.
"""

import math
from typing import Any

import pytest
import torch

from tests.worker.engine.oracle import Answer, Oracle, answers, next_scores
from tests.worker.engine.workload import Result, ScheduledRequest
from worker.engine import FailureCause, FinishReason, SamplingParams, TokenOutput
from worker.engine.sampling.philox import uniforms

CLOSE = 1e-4


def close(expected: Any) -> Any:
    """Equal within 1e-4 or, where penalties make large numbers, within 1e-5 of them."""
    return pytest.approx(expected, abs=CLOSE, rel=1e-5, nan_ok=True)


def reported(score: float | None) -> float:
    """Return nan for scores that the engine does not report: scores that are not finite."""
    return score if score is not None and math.isfinite(score) else math.nan


def compare(oracle: Oracle, scheduled: ScheduledRequest, result: Result) -> None:
    """Raise AssertionError at the first difference."""
    if scheduled.params.num_beams > 1:
        compare_beams(oracle, scheduled, result)
    elif scheduled.params.do_sample:
        compare_samples(oracle, scheduled, result)
    else:
        compare_greedy(oracle, scheduled, result)


def compare_greedy(oracle: Oracle, scheduled: ScheduledRequest, result: Result) -> None:
    assert result.failure is None
    [answer] = answers(oracle, list(scheduled.prompt), scheduled.params)
    compare_answer(scheduled, result.outputs[0], answer, is_whole=not result.is_aborted)


def compare_beams(oracle: Oracle, scheduled: ScheduledRequest, result: Result) -> None:
    """Compare the sequences of a beam search; an aborted one has none.

    If bans leave fewer sequences than requested, transformers adds empty
    sequences, and the engine fails the request.
    """
    if result.is_aborted:
        assert not result.outputs
        return
    expected = answers(oracle, list(scheduled.prompt), scheduled.params)
    if not all(answer.token_ids for answer in expected):
        assert result.failure is not None
        assert result.failure.cause is FailureCause.PARAMETERS
        return
    assert result.failure is None
    assert len(result.outputs) == len(expected)
    for rank, answer in enumerate(expected):
        outputs = result.outputs[rank]
        compare_answer(scheduled, outputs, answer, is_whole=True)
        assert reported(outputs[-1].score) == close(reported(answer.score))


def compare_answer(
    scheduled: ScheduledRequest, outputs: list[TokenOutput], answer: Answer, *, is_whole: bool
) -> None:
    """Compare the tokens of one sequence, or of its beginning, and their log-probabilities."""
    length = len(answer.token_ids) if is_whole else len(outputs)
    assert [o.token_id for o in outputs] == answer.token_ids[:length]
    ours, theirs = [o.logprob for o in outputs], answer.logprobs[:length]
    assert list(map(reported, ours)) == close(list(map(reported, theirs)))
    if is_whole:
        check_end(scheduled, outputs)


def check_end(scheduled: ScheduledRequest, outputs: list[TokenOutput]) -> None:
    """Assert that a sequence ends once, with the right reason."""
    params = scheduled.params
    *before, last = (output.finish_reason for output in outputs)
    assert before == [None] * len(before)
    has_eos = outputs[-1].token_id in params.eos_token_ids
    # A search may also end beams early that cannot win; their reason is the length.
    is_short = len(outputs) < params.max_new_tokens and params.num_beams == 1
    if has_eos or is_short:
        assert last is FinishReason.STOP
        assert has_eos or params.stop_strings, "ended without a reason"
    elif not params.stop_strings:
        assert last is FinishReason.LENGTH


def compare_samples(oracle: Oracle, scheduled: ScheduledRequest, result: Result) -> None:
    """Compare every token of every sequence; the request fails only where no token is left."""
    dead_ends = 0
    for sequence in range(scheduled.params.num_return_sequences):
        outputs = result.outputs[sequence]
        token_ids = [output.token_id for output in outputs]
        *scores, following = next_scores(
            oracle.model, list(scheduled.prompt), scheduled.params, token_ids
        )
        for position, (output, row) in enumerate(zip(outputs, scores, strict=True)):
            compare_sample(scheduled.params, (sequence, position), output, row)
        dead_ends += not following.amax().isfinite()
        if not result.is_aborted and result.failure is None:
            check_end(scheduled, outputs)
    if result.failure is not None:
        assert result.failure.cause is FailureCause.PARAMETERS
        assert dead_ends > 0


def compare_sample(
    params: SamplingParams, place: tuple[int, int], output: TokenOutput, scores: torch.Tensor
) -> None:
    """Compare one token with transformers' scores [vocab] at its (sequence, position)."""
    sequence, position = place
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    below = cumulative[output.token_id - 1].item() if output.token_id else 0.0
    [uniform] = uniforms([params.seed], [sequence], [position])
    assert below - CLOSE <= uniform <= cumulative[output.token_id].item() + CLOSE
    logprobs = scores.log_softmax(dim=-1)
    assert output.logprob == close(logprobs[output.token_id].item())
    if params.top_logprobs:
        assert output.top_logprobs is not None
        best = sorted(logprobs[logprobs > -torch.inf].tolist())[: -params.top_logprobs - 1 : -1]
        assert list(output.top_logprobs.values()) == close(best)
