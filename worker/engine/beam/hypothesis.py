"""What beam searches are made of: continuations that grow by a token, and how they are told.

Knows no rules of a search, no tensors and no KV cache.
"""

from copy import copy
from dataclasses import dataclass

from worker.engine.outputs import FinishReason
from worker.engine.sampling_params import SamplingParams
from worker.engine.text.detokenizer import StopStrings


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a beam; its processed score, and the best ones beside it where asked for."""

    token_id: int
    logprob: float
    top_logprobs: dict[int, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """A continuation of the prompt; `finish_reason` is None while it may go on."""

    steps: tuple[Step, ...]
    stop_strings: StopStrings
    finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """In tokens, without the prompt."""
        return len(self.steps)

    def grown(self, step: Step, params: SamplingParams) -> "Beam":
        """The beam with one token more; this one stays as it is."""
        stop_strings = copy(self.stop_strings)
        is_stopped = stop_strings.push(step.token_id) or step.token_id in params.eos_token_ids
        is_full = self.length + 1 == params.max_new_tokens
        reason = FinishReason.STOP if is_stopped else FinishReason.LENGTH if is_full else None
        return Beam((*self.steps, step), stop_strings, reason)


@dataclass(frozen=True, slots=True)
class Successor:
    """A row of the next step: row `parent` of this one, and the token that follows."""

    parent: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A result. `score`: the sum of its steps' log-probabilities over length ** length_penalty."""

    beam: Beam
    score: float


def length_divisor(length: int, params: SamplingParams) -> float:
    """What a sum of log-probabilities is divided by; positive penalties favour length."""
    return float(length**params.length_penalty)
