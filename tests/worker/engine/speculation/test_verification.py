"""Verification of drafts, and the tokens that a sequence keeps."""

import pytest

from tests.fakes import byte_tokenizer
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import FailureCause, FinishReason, SamplingParams
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure
from worker.engine.speculation.verification import VerifiedTokens, verify_drafts
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.sequence_text import SequenceText

FAILED = SamplingFailure("nan", FailureCause.MODEL)


def sampled(text: str) -> list[SampledToken | SamplingFailure]:
    """Sample a token for each letter; `!` stands for a failure."""
    return [FAILED if letter == "!" else SampledToken(ord(letter)) for letter in text]


@pytest.mark.parametrize(
    ("sampled_text", "drafts", "kept", "num_accepted"),
    [
        ("a", "", "a", 0),
        ("abc", "ab", "abc", 2),
        ("abc", "ax", "ab", 1),
        ("abc", "xb", "a", 0),  # tokens after a rejected draft mean nothing
        ("a!c", "xb", "a", 0),
    ],
)
def test_drafts_are_accepted_up_to_the_first_that_was_not_sampled(
    sampled_text: str, drafts: str, kept: str, num_accepted: int
) -> None:
    tokens = verify_drafts(sampled(sampled_text), tuple(drafts.encode()))
    assert isinstance(tokens, VerifiedTokens)
    assert tokens.tokens == sampled(kept)
    assert (tokens.num_accepted, tokens.num_drafts) == (num_accepted, len(drafts))
    assert tokens.failure is None


def test_a_failure_behind_accepted_drafts_comes_after_their_tokens() -> None:
    assert verify_drafts(sampled("ab!"), tuple(b"ab")) == VerifiedTokens(
        [SampledToken(ord("a")), SampledToken(ord("b"))], num_drafts=2, failure=FAILED
    )
    assert verify_drafts(sampled("!b"), tuple(b"a")) is FAILED


@pytest.mark.parametrize(
    ("params", "text", "reason"),
    [
        (SamplingParams(max_new_tokens=9), "abcd", None),
        (SamplingParams(max_new_tokens=3), "abc", FinishReason.LENGTH),
        (SamplingParams(eos_token_ids=(ord("b"),)), "ab", FinishReason.STOP),
        (SamplingParams(stop_strings=("bc",)), "abc", FinishReason.STOP),
    ],
)
def test_a_sequence_ends_among_accepted_drafts_too(
    params: SamplingParams, text: str, reason: FinishReason | None
) -> None:
    sequence = make_sequence([ord("x")], params)
    tokens = verify_drafts(sampled("abcd"), tuple(b"abc"))
    assert isinstance(tokens, VerifiedTokens)
    outputs = tokens.to_outputs(sequence, SequenceText(sequence, TokenBytes(byte_tokenizer())))
    assert "".join(output.text for output in outputs) == text
    assert [output.finish_reason for output in outputs] == [*[None] * (len(text) - 1), reason]
