"""Show the jobs of prompts as OpenAI's text completion."""

from collections.abc import Iterator, Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from api.openai.answers import Completion, CompletionChoice, CompletionLogprobs, OpenAIUsage
from api.openai.completions.completion import CompletionRequest
from api.openai.logprobs import CompletionLogprobsWriter, ScoredToken
from api.openai.view import (
    AnswerHead,
    AnswerView,
    delta_tokens,
    prompt_tokens,
    sequence_tokens,
)
from shared.protocol import Delta
from shared.results import ChatResult, SequenceResult


class CompletionView(AnswerView[CompletionRequest]):
    """The continuations of one or several prompts: a job for each, a choice per sequence."""

    id_prefix = "cmpl-"

    def __init__(self, request: CompletionRequest, head: AnswerHead) -> None:
        super().__init__(request, head)
        self._writers: dict[int, CompletionLogprobsWriter] = {}  # of streamed choices

    def answer(self, results: Sequence[ChatResult]) -> Completion:
        return self._completion(
            [
                self._choice(job, index, result, sequence)
                for job, result in enumerate(results)
                for index, sequence in enumerate(self._kept(result.sequences))
            ],
            usage=self.usage(results),
        )

    def usage(self, results: Sequence[ChatResult], *, num_new: int | None = None) -> OpenAIUsage:
        return super().usage(results, num_new=0 if self.request.is_echo_only else num_new)

    def chunk_usage(self, job: int, sequence: int) -> OpenAIUsage | UnsetType | None:
        usage = super().chunk_usage(job, sequence)
        if isinstance(usage, OpenAIUsage) and self.request.is_echo_only:
            return replace(usage, completion_tokens=0, total_tokens=usage.prompt_tokens)
        return usage

    def _kept(self, sequences: list[SequenceResult]) -> list[SequenceResult]:
        """Return the `n` sequences of the highest mean log-probability, the best first."""
        if self.request.best_of is None:
            return sequences
        return sorted(sequences, key=mean_logprob, reverse=True)[: self.request.num_choices]

    def _choice(
        self, job: int, index: int, result: ChatResult, sequence: SequenceResult
    ) -> CompletionChoice:
        new = [] if self.request.is_echo_only else sequence_tokens(sequence)
        prompt = prompt_tokens(result.prompt) if self.request.echo else []
        writer = self._new_writer()
        return CompletionChoice(
            index=job * self.request.num_choices + index,
            text=self._echo(job) + ("" if self.request.is_echo_only else sequence.text),
            logprobs=writer.write([*prompt, *new]) if writer else None,
            finish_reason="length" if self.request.is_echo_only else sequence.finish_reason,
            token_ids=self.token_ids([] if self.request.is_echo_only else sequence.token_ids),
            prompt_token_ids=self.prompt_token_ids(result),
            prompt_logprobs=self.prompt_logprobs(result),
        )

    def _echo(self, job: int) -> str:
        """Return the text of the job's prompt, if the answer begins with it."""
        if not self.request.echo:
            return ""
        prompt = self.request.prompt[job]
        if isinstance(prompt, str):
            return prompt
        return "" if self.head.encoder is None else self.head.encoder.text_of(prompt)

    def _new_writer(self) -> CompletionLogprobsWriter | None:
        """Return a writer for one choice; None without log-probabilities."""
        wants = self.request.wants_logprobs and self.texts is not None
        return CompletionLogprobsWriter(self.texts) if wants and self.texts else None

    def opening(self, job: int, prompt_token_ids: list[int] | None) -> Iterator[Completion]:
        """Yield the echoed prompt of each choice; with log-probabilities it comes with these."""
        echo, has_scores = self._echo(job), self._echoes_scores()
        shows_ids = self.request.return_token_ids and prompt_token_ids is not None
        for index in range(self.request.num_choices):
            if shows_ids or (echo and not has_scores):
                choice = CompletionChoice(
                    index=job * self.request.num_choices + index,
                    text="" if has_scores else echo,
                    finish_reason=None,
                    prompt_token_ids=self.token_ids(prompt_token_ids),
                )
                yield self._completion([choice], self.chunk_usage(job, index))

    def _echoes_scores(self) -> bool:
        return self.request.echo and self.request.wants_logprobs and self.texts is not None

    def chunk(self, job: int, delta: Delta) -> Completion | None:
        self.counts.add(job, delta)
        shows_tokens = self.request.wants_logprobs or self.request.return_token_ids
        if not (delta.text or delta.finish_reason or shows_tokens):
            return None
        index = job * self.request.num_choices + delta.sequence
        is_hidden = self.request.is_echo_only
        prompt, echo = self._echoed_scores(job, index, delta)
        choice = CompletionChoice(
            index=index,
            text=echo + ("" if is_hidden else delta.text),
            logprobs=self._write(index, [*prompt, *([] if is_hidden else delta_tokens(delta))]),
            finish_reason="length" if is_hidden else delta.finish_reason,
            token_ids=self.token_ids([] if is_hidden else delta.token_ids),
        )
        return self._completion([choice], self.chunk_usage(job, delta.sequence))

    def _echoed_scores(self, job: int, index: int, delta: Delta) -> tuple[list[ScoredToken], str]:
        """Return the scored tokens of the prompt and its text, before a choice's first token."""
        if not self._echoes_scores() or index in self._writers:
            return [], ""
        return prompt_tokens(delta.prompt), self._echo(job)

    def _write(self, index: int, tokens: Sequence[ScoredToken]) -> CompletionLogprobs | None:
        writer = self._writers.get(index) or self._new_writer()
        if writer is None:
            return None
        self._writers[index] = writer
        return writer.write(tokens)

    def whole(self, job: int, result: ChatResult, index: int) -> Completion:
        sequence = result.sequences[index]
        choice = self._choice(job, index, result, sequence)
        usage = self.chunk_usage(job, index)
        return self._completion([replace(choice, text=sequence.text)], usage)

    def empty(self) -> Completion:
        return self._completion([], None)

    def _completion(
        self, choices: list[CompletionChoice], usage: OpenAIUsage | UnsetType | None
    ) -> Completion:
        return Completion(
            **self.head_fields(),
            choices=choices,
            usage=usage,
            job_ids=self.head.job_ids if len(self.head.job_ids) > 1 else UNSET,
        )


def mean_logprob(sequence: SequenceResult) -> float:
    logprobs = sequence.token_logprobs
    return sum(logprobs) / len(logprobs) if logprobs else float("-inf")
