"""The result of a job, as workers write it and clients get it."""

import msgspec


class SequenceResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One generated sequence."""

    text: str  # the continuation, without the prompt
    finish_reason: str  # "stop": eos or stop string; "length": max_new_tokens
    token_count: int
    score: float | None = None
    token_ids: list[int] | None = None
    token_logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int | msgspec.UnsetType = msgspec.UNSET  # of the prompt, found in a cache
    # Drafts from the request's prediction, in the last run of the job.
    accepted_prediction_tokens: int | msgspec.UnsetType = msgspec.UNSET
    rejected_prediction_tokens: int | msgspec.UnsetType = msgspec.UNSET


class PromptScores(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The engine's findings about a prompt; the first token has no log-probability."""

    num_tokens: int = 0  # of the prompt; 0 from workers that do not report it
    cached_tokens: int = 0
    token_ids: list[int] | None = None  # of a prompt that was scored
    logprobs: list[float] | None = None  # of the tokens from the second on
    top_logprobs: list[dict[int, float]] | None = None


class PromptResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The prompt of a job, with the log-probabilities of its tokens from the second on."""

    token_ids: list[int]
    token_logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None


class ChatResult(msgspec.Struct, frozen=True, kw_only=True, rename={"result": "Result"}):
    """The 200 body of `/chat`."""

    result: str
    id: str
    sequences: list[SequenceResult]
    usage: Usage
    seed: int
    prompt: PromptResult | msgspec.UnsetType = msgspec.UNSET

    @property
    def text(self) -> str:
        """Return the continuation of the first sequence, without the prompt."""
        return self.sequences[0].text
