"""Verification of drafts, and the tokens that a sequence keeps."""

import pytest

from tests.fakes import byte_tokenizer
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import FailureCause, FinishReason, SamplingParams
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk
from worker.engine.step_report import StepReport
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.sequence_text import SequenceText
from worker.engine.token_selection import Sampled, to_outputs, verify_drafts

FAILED = SamplingFailure("nan", FailureCause.MODEL)


def sampled(text: str) -> tuple[Sampled, ...]:
    """Sample a token for each letter; `!` stands for a failure."""
    return tuple(FAILED if letter == "!" else SampledToken(ord(letter)) for letter in text)


@pytest.mark.parametrize(
    ("sampled_text", "drafts", "kept"),
    [
        ("a", "", "a"),
        ("abc", "ab", "abc"),
        ("abc", "ax", "ab"),
        ("abc", "xb", "a"),  # tokens after a rejected draft mean nothing
        ("a!c", "xb", "a"),
        ("ab!", "ab", "ab!"),
        ("a!c", "ab", "a!"),
    ],
)
def test_drafts_are_accepted_up_to_the_first_that_was_not_sampled(
    sampled_text: str, drafts: str, kept: str
) -> None:
    assert verify_drafts(sampled(sampled_text), tuple(drafts.encode())) == sampled(kept)


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
    outputs = to_outputs(
        Chunk(SequenceGroup([sequence]), sequence, start=0, num_tokens=1),
        sampled("abcd!"),
        SequenceText(sequence, TokenBytes(byte_tokenizer())),
        StepReport(),
    )
    assert "".join(output.text for output in outputs) == text
    assert [output.finish_reason for output in outputs] == [*[None] * (len(text) - 1), reason]
