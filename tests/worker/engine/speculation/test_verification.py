"""Which drafts are accepted, and how far a sequence goes on by them."""

import pytest

from tests.fakes import byte_tokenizer
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import Blame, FinishReason, SamplingParams
from worker.engine.sampling.sampled_token import Choice, NoChoice
from worker.engine.speculation.verification import NextTokens, verified
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.text_stream import TextStream

FAILED = NoChoice("nan", Blame.MODEL)


def choices(text: str) -> list[Choice | NoChoice]:
    """A choice for each letter; `!` is none."""
    return [FAILED if letter == "!" else Choice(ord(letter)) for letter in text]


@pytest.mark.parametrize(
    ("chosen", "drafts", "standing", "num_accepted"),
    [
        ("a", "", "a", 0),
        ("abc", "ab", "abc", 2),
        ("abc", "ax", "ab", 1),
        ("abc", "xb", "a", 0),  # what was chosen after a wrong guess means nothing
        ("a!c", "xb", "a", 0),
    ],
)
def test_drafts_stand_up_to_the_first_that_was_not_chosen(
    chosen: str, drafts: str, standing: str, num_accepted: int
) -> None:
    tokens = verified(choices(chosen), drafts.encode())
    assert isinstance(tokens, NextTokens)
    assert tokens.choices == choices(standing)
    assert (tokens.num_accepted, tokens.num_drafts) == (num_accepted, len(drafts))
    assert tokens.problem is None


def test_a_failure_behind_accepted_drafts_comes_after_their_tokens() -> None:
    assert verified(choices("ab!"), b"abc"[:2]) == NextTokens(
        [Choice(ord("a")), Choice(ord("b"))], num_drafts=2, problem=FAILED
    )
    assert verified(choices("!b"), b"a") is FAILED


@pytest.mark.parametrize(
    ("params", "told", "reason"),
    [
        (SamplingParams(max_new_tokens=9), "abcd", None),
        (SamplingParams(max_new_tokens=3), "abc", FinishReason.LENGTH),
        (SamplingParams(eos_token_ids=(ord("b"),)), "ab", FinishReason.STOP),
        (SamplingParams(stop_strings=("bc",)), "abc", FinishReason.STOP),
    ],
)
def test_what_ends_a_sequence_ends_it_among_accepted_drafts_too(
    params: SamplingParams, told: str, reason: FinishReason | None
) -> None:
    sequence = make_sequence([ord("x")], params)
    tokens = verified(choices("abcd"), b"abc")
    assert isinstance(tokens, NextTokens)
    outputs = tokens.told(sequence, TextStream(sequence, TokenBytes(byte_tokenizer())))
    assert "".join(output.text for output in outputs) == told
    assert [output.finish_reason for output in outputs] == [*[None] * (len(told) - 1), reason]
