"""The token counts of an answer, and of each chunk of a stream that asks for them."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from api.openai.answers import CompletionTokensDetails, OpenAIUsage, PromptTokensDetails
from shared.protocol import Delta, Succeeded, TokenDeltas
from shared.results import ChatResult, Usage


def usage_of(results: Sequence[ChatResult], *, num_new: int | None = None) -> OpenAIUsage:
    """Return the tokens of all jobs; `num_new` replaces the number of new tokens."""
    usages = [result.usage for result in results]
    if num_new is None:
        num_new = sum(usage.completion_tokens for usage in usages)
    num_prompt = sum(usage.prompt_tokens for usage in usages)
    cached = [known(usage.cached_tokens) for usage in usages]
    num_cached = None if None in cached else sum(count or 0 for count in cached)
    usage = openai_usage(num_prompt, num_new, num_cached)
    return replace(usage, completion_tokens_details=prediction_details(usages))


def prediction_details(usages: Sequence[Usage]) -> CompletionTokensDetails | UnsetType:
    """Return how many drafts from predictions were accepted; UNSET without a prediction."""
    accepted = [known(usage.accepted_prediction_tokens) for usage in usages]
    rejected = [known(usage.rejected_prediction_tokens) for usage in usages]
    if None in accepted:
        return UNSET
    return CompletionTokensDetails(
        accepted_prediction_tokens=sum(count or 0 for count in accepted),
        rejected_prediction_tokens=sum(count or 0 for count in rejected),
    )


def known(count: int | UnsetType) -> int | None:
    """Return a count; None if the worker did not report it."""
    return None if isinstance(count, UnsetType) else count


def openai_usage(num_prompt: int, num_new: int, num_cached: int | None) -> OpenAIUsage:
    return OpenAIUsage(
        prompt_tokens=num_prompt,
        completion_tokens=num_new,
        total_tokens=num_prompt + num_new,
        prompt_tokens_details=(
            None if num_cached is None else PromptTokensDetails(cached_tokens=num_cached)
        ),
    )


class ChoiceUsage:
    """Count the tokens of each choice while a request streams."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[int, int | None]] = {}  # by job: tokens, cached tokens
        self._num_new: dict[tuple[int, int], int] = {}  # by job and sequence

    def observe(self, job: int, news: TokenDeltas | Succeeded) -> None:
        """Record what the next events say of a job's prompt, and a result's counts."""
        if isinstance(news, Succeeded):
            usage = news.result.usage
            self._prompts[job] = usage.prompt_tokens, known(usage.cached_tokens)
            for index, sequence in enumerate(news.result.sequences):
                self._num_new[job, index] = sequence.token_count
            return
        for delta in news.deltas:
            if delta.prompt is not None and delta.prompt.num_tokens:
                self._prompts[job] = delta.prompt.num_tokens, delta.prompt.cached_tokens

    def add(self, job: int, delta: Delta) -> None:
        """Count the tokens of a delta."""
        place = job, delta.sequence
        self._num_new[place] = self._num_new.get(place, 0) + len(delta.token_ids)

    def of(self, job: int, sequence: int) -> OpenAIUsage | None:
        """Return the tokens of a choice so far; None before the prompt's length is known."""
        if job not in self._prompts:
            return None
        num_prompt, num_cached = self._prompts[job]
        return openai_usage(num_prompt, self._num_new.get((job, sequence), 0), num_cached)
