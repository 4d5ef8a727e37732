"""The typed events of a response, with their sequence numbers.

They are a function of the request, the token log and the outcome of its job: every stream of a
response has the same events with the same numbers, on every replica.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from api.openai.responses.objects import ResponseObject, TextContent
from api.openai.responses.view import ResponseView, output_text
from api.openai.view import delta_tokens
from shared.protocol import Delta, JobRecord, TokenDeltas
from shared.results import ChatResult

Event = dict[str, Any]

ENDINGS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",  # OpenAI has no event for it
    "failed": "response.failed",
}


class ResponseEvents:
    """The events of one response in their order: `opening`, `deltas` of its whole log, `ending`."""

    def __init__(self, view: ResponseView) -> None:
        self._view = view
        self._next_number = 0
        self._has_output = False
        self._shown: set[int] = set()  # messages with a delta

    def opening(self, record: JobRecord) -> Iterator[Event]:
        """Yield the events of an accepted request."""
        if not self._view.shape.response.background:
            response = self._view.unfinished(record, "in_progress")
            yield self._of_response("response.created", response)
            return
        response = self._view.unfinished(record, "queued")
        yield self._of_response("response.created", response)
        yield self._of_response("response.queued", response)

    def deltas(self, record: JobRecord, news: TokenDeltas) -> Iterator[Event]:
        """Yield the events of the next tokens; a token without a text has none."""
        yield from self._begin_output(record)
        for delta in news.deltas:
            if delta.text or self._view.shape.shows_logprobs:
                yield self._delta(delta)

    def ending(self, record: JobRecord) -> Iterator[Event]:
        """Yield the events of the outcome in the record."""
        if record.result is not None:
            yield from self._begin_output(record)
            yield from self._finish_output(record.result)
        response = self._view.response(record)
        yield self._of_response(ENDINGS[response.status], response)

    def _begin_output(self, record: JobRecord) -> Iterator[Event]:
        if self._has_output:
            return
        self._has_output = True
        response = self._view.unfinished(record, "in_progress")
        yield self._of_response("response.in_progress", response)
        for index in range(self._view.shape.num_messages):
            item = self._view.new_message(index)
            yield self._event("response.output_item.added", output_index=index, item=item)
            yield self._of_part("response.content_part.added", index, output_text("", []))

    def _delta(self, delta: Delta) -> Event:
        self._shown.add(delta.sequence)
        return self._of_text(
            "response.output_text.delta",
            delta.sequence,
            delta=delta.text,
            logprobs=self._view.logprobs(delta_tokens(delta)),
        )

    def _finish_output(self, result: ChatResult) -> Iterator[Event]:
        for index, sequence in enumerate(result.sequences):
            message = self._view.message(index, sequence)
            [part] = message.content
            if index not in self._shown and part.text:  # a beam search has no tokens before its end
                yield self._of_text(
                    "response.output_text.delta", index, delta=part.text, logprobs=part.logprobs
                )
            yield self._of_text(
                "response.output_text.done", index, text=part.text, logprobs=part.logprobs
            )
            yield self._of_part("response.content_part.done", index, part)
            yield self._event("response.output_item.done", output_index=index, item=message)

    def _of_response(self, kind: str, response: ResponseObject) -> Event:
        return self._event(kind, response=response)

    def _of_part(self, kind: str, index: int, part: TextContent) -> Event:
        return self._of_text(kind, index, part=part)

    def _of_text(self, kind: str, index: int, **fields: Any) -> Event:
        item_id = self._view.message_id(index)
        return self._event(kind, item_id=item_id, output_index=index, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        number = self._next_number
        self._next_number += 1
        event = {"type": kind, "sequence_number": number, **fields}
        return {name: msgspec.to_builtins(value) for name, value in event.items()}
