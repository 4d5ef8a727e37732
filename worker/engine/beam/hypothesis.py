"""Beams and hypotheses: the continuations that a beam search grows and returns."""

from copy import copy
from dataclasses import dataclass

from worker.engine.outputs import FinishReason
from worker.engine.sampling_params import SamplingParams
from worker.engine.text.detokenizer import StopStrings


@dataclass(frozen=True, slots=True)
class BeamToken:
    """One token of a beam."""

    token_id: int
    logprob: float  # its processed score
    top_logprobs: dict[int, float] | None = None  # the best scores, where asked for


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """A continuation of the prompt."""

    tokens: tuple[BeamToken, ...]
    stop_strings: StopStrings
    finish_reason: FinishReason | None = None  # None while it may continue

    @property
    def length(self) -> int:
        """Return the number of tokens, without the prompt."""
        return len(self.tokens)

    def extended_by(self, token: BeamToken, params: SamplingParams) -> "Beam":
        """Return a copy with one more token."""
        stop_strings = copy(self.stop_strings)
        is_stopped = stop_strings.push(token.token_id) or token.token_id in params.eos_token_ids
        is_full = self.length + 1 == params.max_new_tokens
        reason = FinishReason.STOP if is_stopped else FinishReason.LENGTH if is_full else None
        return Beam((*self.tokens, token), stop_strings, reason)


@dataclass(frozen=True, slots=True)
class Successor:
    """A row of the next step."""

    parent: int  # the row of this step that it continues
    token_id: int  # its new token


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished beam."""

    beam: Beam
    score: float  # the sum of its tokens' log-probabilities / length ** length_penalty


def length_divisor(length: int, params: SamplingParams) -> float:
    """Return the divisor of a sum of log-probabilities; positive penalties favour length."""
    return float(length**params.length_penalty)
