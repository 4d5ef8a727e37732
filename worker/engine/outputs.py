"""What `Engine.step()` returns: one token of one sequence, or the end of a request that failed."""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto


class FinishReason(StrEnum):
    STOP = "stop"  # an eos token or a stop string
    LENGTH = "length"  # max_new_tokens


@dataclass(slots=True)
class TokenOutput:
    """One new token.

    `text` is what it adds to the sequence's text: "" while a UTF-8 character is incomplete; the
    last output of a sequence, the one with a `finish_reason`, flushes what is left.
    `logprob` is the log-probability of the token under the processed scores, and `top_logprobs`
    those of the likeliest tokens, best first; both only where the request asked for them, and
    where the scores form a distribution: they do not when every token is banned.
    A beam search reports all tokens of all its sequences at its end, with its processed scores as
    they are, not normalized: they add up to the `score` of the sequence, which its last output
    has, once divided by length ** length_penalty.
    """

    request_id: str
    sequence: int
    token_id: int
    text: str
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    finish_reason: FinishReason | None = None
    score: float | None = None


class Blame(Enum):
    """What made a request fail."""

    MODEL = auto()
    PARAMETERS = auto()  # the caller can mend them


@dataclass(slots=True)
class RequestFailed:
    """The request is over, all its sequences with it; `message` is fit for its caller."""

    request_id: str
    message: str
    blame: Blame = Blame.MODEL


Output = TokenOutput | RequestFailed
