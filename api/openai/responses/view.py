"""Show the job of a response as OpenAI's object."""

import time
from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET
from msgspec.structs import replace

from api.openai.answers import OpenAIUsage, TokenLogprob
from api.openai.logprobs import ScoredToken, TokenTexts, chat_logprobs
from api.openai.responses.objects import (
    IncompleteDetails,
    InputTokensDetails,
    MessageItem,
    MessageStatus,
    OutputTokensDetails,
    ResponseError,
    ResponseObject,
    ResponseUsage,
    Status,
    TextContent,
)
from api.openai.responses.request import ResponseRequest
from api.openai.responses.stored import ResponseShape
from api.openai.usage import usage_of
from api.openai.view import AnswerHead, sequence_tokens
from shared.protocol import JobError, JobRecord, JobStatus
from shared.results import ChatResult, SequenceResult

STATUSES: dict[JobStatus, Status] = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.EXPIRED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


class ResponseView:
    """The response of one job."""

    def __init__(self, shape: ResponseShape, head: AnswerHead) -> None:
        self.shape = shape
        [self.job_id] = head.job_ids
        self._texts: TokenTexts | None = None
        self._model = shape.response.model
        if head.encoder is not None:
            self._model = self._model or head.encoder.card.name
            if shape.shows_logprobs and shape.card_hash in (None, head.card_hash):
                self._texts = TokenTexts(head.encoder.tokenizer, as_ids=shape.tokens_as_ids)

    def response(self, record: JobRecord) -> ResponseObject:
        """Return the response as of this record."""
        if record.outcome is None:
            status = STATUSES[record.status]
            return self.unfinished(record, "queued" if status == "queued" else "in_progress")
        if record.result is not None:
            return self.succeeded(record, record.result)
        response = self._with_job(record, STATUSES[record.status])
        if record.error is None or response.status == "cancelled":
            return response
        return replace(response, error=response_error(record.error))

    def unfinished(
        self, record: JobRecord, status: Literal["queued", "in_progress"]
    ) -> ResponseObject:
        """Return the response as it is before the job ends."""
        return self._with_job(record, status)

    def _with_job(self, record: JobRecord, status: Status) -> ResponseObject:
        return replace(
            self.shape.response,
            id=f"resp_{self.job_id}",
            created_at=record.created_ms // 1000,
            status=status,
            model=self._model,
        )

    def succeeded(self, record: JobRecord, result: ChatResult) -> ResponseObject:
        """Return the response with this result of its job."""
        output = [self.message(*item) for item in enumerate(result.sequences)]
        is_complete = all(message.status == "completed" for message in output)
        finished_ms = record.finished_ms or record.created_ms
        return replace(
            self._with_job(record, "completed" if is_complete else "incomplete"),
            completed_at=finished_ms // 1000 if is_complete else None,
            incomplete_details=None if is_complete else IncompleteDetails(),
            output=output,
            usage=response_usage(result),
        )

    def message_id(self, index: int) -> str:
        """Return the id of a message of the output."""
        return f"msg_{self.job_id}" + (f"_{index}" if index else "")

    def message(self, index: int, sequence: SequenceResult) -> MessageItem:
        """Return a whole message of the output."""
        status: MessageStatus = "incomplete" if sequence.finish_reason == "length" else "completed"
        content = output_text(sequence.text, self.logprobs(sequence_tokens(sequence)))
        return self._message(index, status, [content])

    def new_message(self, index: int) -> MessageItem:
        """Return a message of the output before its text begins."""
        return self._message(index, "in_progress", [])

    def _message(
        self, index: int, status: MessageStatus, content: list[TextContent]
    ) -> MessageItem:
        item_id = self.message_id(index)
        return MessageItem(id=item_id, role="assistant", status=status, content=content)

    def logprobs(self, tokens: Sequence[ScoredToken]) -> list[TokenLogprob]:
        """Return the log-probabilities of tokens, if the request asks for them."""
        return [] if self._texts is None else chat_logprobs(tokens, self._texts).content


class UnstoredResponse:
    """The response to a line of a batch, which only the output file of the batch has."""

    def __init__(self, request: ResponseRequest, head: AnswerHead) -> None:
        unstored = request.model_copy(update={"store": False})
        self._view = ResponseView(ResponseShape.of(unstored, request.model or "", None), head)
        self._created_ms = 1000 * head.created

    def answer(self, results: Sequence[ChatResult]) -> ResponseObject:
        """Return the response of its only job, which has just succeeded."""
        [result] = results
        record = JobRecord(
            id=self._view.job_id,
            status=JobStatus.SUCCEEDED,
            created_ms=self._created_ms,
            finished_ms=time.time_ns() // 1_000_000,
        )
        return self._view.succeeded(record, result)

    def usage(self, results: Sequence[ChatResult]) -> OpenAIUsage:
        return usage_of(results)


def output_text(text: str, logprobs: list[TokenLogprob]) -> TextContent:
    return TextContent(type="output_text", text=text, annotations=[], logprobs=logprobs)


def response_usage(result: ChatResult) -> ResponseUsage:
    """Return the tokens of the job; a worker may not report the cached tokens."""
    usage = result.usage
    cached = 0 if usage.cached_tokens is UNSET else usage.cached_tokens
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=cached),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(),
        total_tokens=usage.total_tokens,
    )


def response_error(error: JobError) -> ResponseError:
    """Return the error with the code of OpenAI for its status."""
    if error.status_code == 429:
        return ResponseError(code="rate_limit_exceeded", message=error.message)
    is_refusal = 400 <= error.status_code < 500
    code: Literal["invalid_prompt", "server_error"] = (
        "invalid_prompt" if is_refusal else "server_error"
    )
    return ResponseError(code=code, message=error.message)
