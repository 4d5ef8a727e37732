"""Show the job of a conversation as OpenAI's chat completion."""

from collections.abc import Iterator, Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from api.openai.answers import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    OpenAIUsage,
)
from api.openai.completions.chat import ChatCompletionRequest
from api.openai.logprobs import ScoredToken, chat_logprobs
from api.openai.view import AnswerView, delta_tokens, sequence_tokens
from shared.protocol import Delta
from shared.results import ChatResult, SequenceResult


class ChatView(AnswerView[ChatCompletionRequest]):
    """The answer to one conversation: one job with a choice per sequence."""

    id_prefix = "chatcmpl-"

    def answer(self, results: Sequence[ChatResult]) -> ChatCompletion:
        [result] = results
        return ChatCompletion(
            **self.head_fields(),
            object="chat.completion",
            choices=[self._choice(*item) for item in enumerate(result.sequences)],
            usage=self.usage(results),
            prompt_token_ids=self.prompt_token_ids(result),
            prompt_logprobs=self.prompt_logprobs(result),
        )

    def _choice(self, index: int, sequence: SequenceResult) -> ChatChoice:
        return ChatChoice(
            index=index,
            message=AssistantMessage(content=sequence.text),
            logprobs=self._logprobs(sequence_tokens(sequence)),
            finish_reason=sequence.finish_reason,
            token_ids=self.token_ids(sequence.token_ids),
        )

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs | None:
        wants = self.request.wants_logprobs and self.texts is not None
        return chat_logprobs(tokens, self.texts) if wants and self.texts else None

    def opening(self, job: int, prompt_token_ids: list[int] | None) -> Iterator[ChatCompletion]:
        for index in range(self.request.num_choices):
            delta = ChatDelta(role="assistant", content="")
            choice = ChatChoice(index=index, delta=delta, finish_reason=None)
            ids = self.token_ids(prompt_token_ids) if index == 0 else UNSET
            usage = self.chunk_usage(job, index)
            yield self._chunk([choice], usage, prompt_token_ids=ids)

    def chunk(self, job: int, delta: Delta) -> ChatCompletion | None:
        self.counts.add(job, delta)
        shows_tokens = self.request.wants_logprobs or self.request.return_token_ids
        if not (delta.text or delta.finish_reason or shows_tokens):
            return None
        choice = ChatChoice(
            index=delta.sequence,
            delta=ChatDelta(content=delta.text) if delta.text or shows_tokens else ChatDelta(),
            logprobs=self._logprobs(delta_tokens(delta)),
            finish_reason=delta.finish_reason,
            token_ids=self.token_ids(delta.token_ids),
        )
        return self._chunk([choice], self.chunk_usage(job, delta.sequence))

    def whole(self, job: int, result: ChatResult, index: int) -> ChatCompletion:
        sequence = result.sequences[index]
        delta = ChatDelta(content=sequence.text)
        choice = replace(self._choice(index, sequence), message=UNSET, delta=delta)
        return self._chunk([choice], self.chunk_usage(job, index))

    def empty(self) -> ChatCompletion:
        return self._chunk([], None)

    def _chunk(
        self,
        choices: list[ChatChoice],
        usage: OpenAIUsage | UnsetType | None,
        *,
        prompt_token_ids: list[int] | UnsetType = UNSET,
    ) -> ChatCompletion:
        return ChatCompletion(
            **self.head_fields(),
            object="chat.completion.chunk",
            choices=choices,
            usage=usage,
            prompt_token_ids=prompt_token_ids,
        )
