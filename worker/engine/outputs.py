"""What `Engine.step()` returns: one token of one sequence, or the end of a request that failed."""

from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto


class FinishReason(StrEnum):
    STOP = "stop"  # an eos token or a stop string
    LENGTH = "length"  # max_new_tokens


@dataclass(slots=True)
class PromptScores:
    """The engine's findings about the prompt of a request."""

    num_tokens: int
    num_cached_tokens: int = 0  # found in the prefix cache
    token_ids: list[int] | None = None  # where the request asked for `prompt_logprobs`
    # Under the model's logits; of the tokens from the second on.
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)


@dataclass(slots=True)
class TokenOutput:
    """One new token of one sequence.

    A beam search reports all tokens of all its sequences at its end.
    """

    request_id: str
    sequence: int  # index among the sequences of the request
    token_id: int
    # What the token adds to the text of the sequence: "" while a UTF-8 character is incomplete.
    text: str
    # The log-probability under the processed scores, where the request asked for it and the scores
    # form a distribution: they do not when every token is banned. Beam searches report processed
    # scores, not normalized.
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None  # the same of the likeliest tokens, best first
    finish_reason: FinishReason | None = None  # of the last token; its text flushes what is left
    # On the last token of a beam: the sum of its log-probabilities / length ** length_penalty.
    score: float | None = None
    # With the first token of a request's first sequence, unless an earlier attempt generated it.
    prompt: PromptScores | None = field(default=None, compare=False)
    # On the last token of a sequence: how many drafts from the prediction of its request were
    # accepted and rejected in this attempt.
    predicted: tuple[int, int] | None = field(default=None, compare=False)


class FailureCause(Enum):
    MODEL = auto()
    PARAMETERS = auto()  # the client can correct them
    GRAMMAR = auto()  # the same of the grammar


@dataclass(slots=True)
class RequestFailed:
    """The request has ended, with all its sequences."""

    request_id: str
    message: str  # for the client
    cause: FailureCause = FailureCause.MODEL


Output = TokenOutput | RequestFailed
