"""Whether a guest got what transformers says to its prompt alone.

Greedy and beams: token for token. Sampling: each token is the one that its uniform number picks
from transformers' own distribution. Log-probabilities and scores within 1e-4.
"""

import math
from typing import Any

import pytest
import torch

from tests.worker.engine.company import Guest, Result
from tests.worker.engine.oracle import Answer, Judge, answers, next_scores
from worker.engine import Blame, FinishReason, SamplingParams, TokenOutput
from worker.engine.sampling.philox import uniforms

CLOSE = 1e-4


def close(expected: Any) -> Any:
    """Equal within 1e-4 or, where penalties make large numbers, within 1e-5 of them."""
    return pytest.approx(expected, abs=CLOSE, rel=1e-5, nan_ok=True)


def told(score: float | None) -> float:
    """What the engine can tell of a score: only numbers that are finite, else nothing."""
    return score if score is not None and math.isfinite(score) else math.nan


def check(judge: Judge, guest: Guest, result: Result) -> None:
    """AssertionError tells the first difference."""
    if guest.params.num_beams > 1:
        check_beams(judge, guest, result)
    elif guest.params.do_sample:
        check_draws(judge, guest, result)
    else:
        check_greedy(judge, guest, result)


def check_greedy(judge: Judge, guest: Guest, result: Result) -> None:
    assert result.failure is None
    [answer] = answers(judge, list(guest.prompt), guest.params)
    check_answer(guest, result.outputs[0], answer, is_whole=not result.is_aborted)


def check_beams(judge: Judge, guest: Guest, result: Result) -> None:
    """All at once; nothing for a guest that left early.

    Where bans leave fewer sequences than were asked for, transformers fills up with empty ones,
    and the engine fails the request.
    """
    if result.is_aborted:
        assert not result.outputs
        return
    expected = answers(judge, list(guest.prompt), guest.params)
    if not all(answer.token_ids for answer in expected):
        assert result.failure is not None
        assert result.failure.blame is Blame.PARAMETERS
        return
    assert result.failure is None
    assert len(result.outputs) == len(expected)
    for rank, answer in enumerate(expected):
        outputs = result.outputs[rank]
        check_answer(guest, outputs, answer, is_whole=True)
        assert told(outputs[-1].score) == close(told(answer.score))


def check_answer(
    guest: Guest, outputs: list[TokenOutput], answer: Answer, *, is_whole: bool
) -> None:
    """The tokens of one sequence, or of its beginning, with their log-probabilities."""
    length = len(answer.token_ids) if is_whole else len(outputs)
    assert [o.token_id for o in outputs] == answer.token_ids[:length]
    ours, theirs = [o.logprob for o in outputs], answer.logprobs[:length]
    assert list(map(told, ours)) == close(list(map(told, theirs)))
    if is_whole:
        check_end(guest, outputs)


def check_end(guest: Guest, outputs: list[TokenOutput]) -> None:
    """Ends once, and says why: an eos or a stop string, or else the length."""
    params = guest.params
    *before, last = (output.finish_reason for output in outputs)
    assert before == [None] * len(before)
    has_eos = outputs[-1].token_id in params.eos_token_ids
    # A search may also give up early on beams that cannot win any more; it calls that length.
    is_short = len(outputs) < params.max_new_tokens and params.num_beams == 1
    if has_eos or is_short:
        assert last is FinishReason.STOP
        assert has_eos or params.stop_strings, "ended by nothing"
    elif not params.stop_strings:
        assert last is FinishReason.LENGTH


def check_draws(judge: Judge, guest: Guest, result: Result) -> None:
    """Every token of every sequence, and that the request fails exactly where nothing is left."""
    dead_ends = 0
    for sequence in range(guest.params.num_return_sequences):
        outputs = result.outputs[sequence]
        token_ids = [output.token_id for output in outputs]
        *scores, following = next_scores(judge.model, list(guest.prompt), guest.params, token_ids)
        for position, (output, row) in enumerate(zip(outputs, scores, strict=True)):
            check_draw(guest.params, (sequence, position), output, row)
        dead_ends += not following.amax().isfinite()
        if not result.is_aborted and result.failure is None:
            check_end(guest, outputs)
    if result.failure is not None:
        assert result.failure.blame is Blame.PARAMETERS
        assert dead_ends > 0


def check_draw(
    params: SamplingParams, place: tuple[int, int], output: TokenOutput, scores: torch.Tensor
) -> None:
    """One token against transformers' processed scores [vocab] at its (sequence, position)."""
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
