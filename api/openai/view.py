"""What the answers to both kinds of requests have in common: their head, usage and tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from api.openai.answers import Answer, OpenAIUsage
from api.openai.logprobs import (
    ScoredToken,
    TokenTexts,
    prompt_logprobs,
    scored_prompt,
    scored_tokens,
)
from api.openai.request import OpenAIRequest
from api.openai.usage import ChoiceUsage, usage_of
from shared.protocol import Delta, Succeeded, TokenDeltas
from shared.request.prompt import PromptEncoder
from shared.results import ChatResult, PromptResult, PromptScores, SequenceResult

T = TypeVar("T", bound=OpenAIRequest)


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The jobs of a request, and the model that runs them, as far as it is known."""

    job_ids: list[str]
    created: int  # Unix seconds
    card_hash: str | None
    encoder: PromptEncoder | None

    @property
    def fingerprint(self) -> str | None:
        return None if self.card_hash is None else f"fp_{self.card_hash[:12]}"


class AnswerView(ABC, Generic[T]):
    """Show the jobs of one request as its answer, or as the chunks of a stream."""

    id_prefix: str

    def __init__(self, request: T, head: AnswerHead) -> None:
        self.request = request
        self.head = head
        self.counts = ChoiceUsage()
        self.texts: TokenTexts | None = None
        shows_tokens = request.wants_logprobs or request.prompt_logprobs is not None
        if head.encoder is not None and shows_tokens:
            as_ids = request.return_tokens_as_token_ids
            self.texts = TokenTexts(head.encoder.tokenizer, as_ids=as_ids)

    @abstractmethod
    def answer(self, results: Sequence[ChatResult]) -> Answer:
        """Return the whole answer; `results` has a result per job, in order."""

    @abstractmethod
    def opening(self, job: int, prompt_token_ids: list[int] | None) -> Iterator[Answer]:
        """Yield the chunks before the first token of a job, by its index."""

    @abstractmethod
    def chunk(self, job: int, delta: Delta) -> Answer | None:
        """Return the chunk of one token of a job; None if it adds nothing."""

    @abstractmethod
    def whole(self, job: int, result: ChatResult, index: int) -> Answer:
        """Return the chunk of sequence `index` of a job that had no tokens before its end."""

    @abstractmethod
    def empty(self) -> Answer:
        """Return a chunk without choices."""

    def closing(self, results: Sequence[ChatResult]) -> Iterator[Answer]:
        """Yield the chunks after the last token of all jobs."""
        if self.request.includes_usage:
            yield replace(self.empty(), usage=self.usage(results))

    def head_fields(self) -> dict[str, Any]:
        """Return the fields that every answer and every chunk has."""
        encoder = self.head.encoder
        return {
            "id": self.id_prefix + self.head.job_ids[0],
            "created": self.head.created,
            "model": self.request.model or ("" if encoder is None else encoder.card.name),
            "system_fingerprint": self.head.fingerprint,
            "service_tier": self.request.tier,
            "metadata": self.request.metadata or UNSET,
        }

    def observe(self, job: int, news: TokenDeltas | Succeeded) -> None:
        """Take note of a job's next events, before their chunks are made."""
        self.counts.observe(job, news)

    def chunk_usage(self, job: int, sequence: int) -> OpenAIUsage | UnsetType | None:
        """Return the `usage` of a choice's chunk: null, if only the last chunk has it."""
        if self.request.includes_usage_in_chunks:
            return self.counts.of(job, sequence)
        return None if self.request.includes_usage else UNSET

    def usage(self, results: Sequence[ChatResult], *, num_new: int | None = None) -> OpenAIUsage:
        """Return the tokens of all jobs; `num_new` replaces the number of new tokens."""
        return usage_of(results, num_new=num_new)

    def token_ids(self, ids: list[int] | None) -> list[int] | UnsetType:
        """Return the token ids if the request asks for them."""
        return ids if self.request.return_token_ids and ids is not None else UNSET

    def prompt_token_ids(self, result: ChatResult) -> list[int] | UnsetType:
        return (
            UNSET
            if isinstance(result.prompt, UnsetType)
            else self.token_ids(result.prompt.token_ids)
        )

    def prompt_logprobs(self, result: ChatResult) -> list[dict[str, Any] | None] | UnsetType:
        """Return the scores of the prompt in vLLM's shape, if the request asks for them."""
        if self.request.prompt_logprobs is None or self.texts is None:
            return UNSET
        return prompt_logprobs(prompt_tokens(result.prompt), self.texts)


MakeView = Callable[[T, AnswerHead], AnswerView[T]]


def prompt_tokens(prompt: PromptResult | PromptScores | UnsetType | None) -> list[ScoredToken]:
    """Return the scored tokens of a prompt, from a result or from the first delta."""
    if prompt is None or isinstance(prompt, UnsetType):
        return []
    logprobs = prompt.token_logprobs if isinstance(prompt, PromptResult) else prompt.logprobs
    return scored_prompt(prompt.token_ids or [], logprobs, prompt.top_logprobs)


def sequence_tokens(sequence: SequenceResult) -> list[ScoredToken]:
    return scored_tokens(sequence.token_ids or [], sequence.token_logprobs, sequence.top_logprobs)


def delta_tokens(delta: Delta) -> list[ScoredToken]:
    """Return the scored token; none for a whole sequence, which a delta cannot score."""
    if len(delta.token_ids) != 1:
        return []
    tops = None if delta.top_logprobs is None else [delta.top_logprobs]
    return scored_tokens(delta.token_ids, [delta.logprob], tops)
