"""What is kept of a response's request: its fields, its input, and the conversation before it.

The rest of a response follows from its job.
"""

from collections.abc import Sequence
from typing import Self

import msgspec

from api.openai.responses.input import Item
from api.openai.responses.objects import MessageItem, ResponseObject, TextContent
from api.openai.responses.request import ResponseRequest
from api.schemas import MAX_MESSAGES
from shared.errors import InvalidParameter
from shared.results import ChatResult


class ResponseShape(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a request that its response shows, and how to show its job."""

    response: ResponseObject  # without id, times and output
    num_messages: int  # of the output
    has_log: bool  # the job keeps a token log, so its events can be streamed
    shows_logprobs: bool
    tokens_as_ids: bool
    card_hash: str | None  # of the model whose tokenizer writes tokens as text

    @classmethod
    def of(cls, request: ResponseRequest, model: str, card_hash: str | None) -> Self:
        return cls(
            response=_without_job(request, model),
            num_messages=request.num_choices,
            has_log=request.stream or request.background,
            shows_logprobs=request.wants_logprobs,
            tokens_as_ids=request.return_tokens_as_token_ids,
            card_hash=card_hash,
        )


def _without_job(request: ResponseRequest, model: str) -> ResponseObject:
    """Return the response before it has a job."""
    return ResponseObject(
        id="",
        created_at=0,
        status="queued",
        background=request.background,
        instructions=request.instructions,
        max_output_tokens=request.kwargs().get("max_new_tokens"),
        metadata=request.metadata or {},
        model=model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        prompt_cache_key=request.prompt_cache_key,
        safety_identifier=request.safety_identifier,
        service_tier=request.tier,
        store=request.store,
        temperature=request.temperature,
        text={"format": request.text.format.shown()},
        tool_choice=request.tool_choice or "auto",
        tools=request.tools or [],
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        truncation=request.truncation or "disabled",
        user=request.user,
    )


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The stored request of a response."""

    shape: ResponseShape
    earlier: list[Item]  # the conversation before the input, without instructions
    input: list[Item]

    @classmethod
    def of(
        cls,
        request: ResponseRequest,
        shape: ResponseShape,
        earlier: Sequence[Item],
        *,
        max_bytes: int,
    ) -> Self:
        """Return what is stored of a request. Raises InvalidParameter for a long conversation."""
        items = [message.to_item() for message in request.input]
        check_conversation([*earlier, *items], max_bytes)
        return cls(shape=shape, earlier=list(earlier), input=items)

    def encode(self) -> bytes:
        """Return JSON: the tools of a request may have numbers that msgpack lacks."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return msgspec.json.decode(data, type=cls)

    def conversation(self, result: ChatResult) -> list[Item]:
        """Return the conversation with the response; of several messages, the first."""
        answer = Item(role="assistant", texts=[result.sequences[0].text])
        return [*self.earlier, *self.input, answer]

    def input_items(self, job_id: str) -> list[MessageItem]:
        """Return every message that the model read, except the instructions, oldest first."""
        items = enumerate([*self.earlier, *self.input])
        return [input_item(f"msg_{job_id}_in_{index}", item) for index, item in items]


def check_conversation(items: Sequence[Item], max_bytes: int) -> None:
    """Raise InvalidParameter for a conversation that no single request could send."""
    num_bytes = sum(len(text.encode()) for item in items for text in item.texts)
    for count, limit, unit in (
        (len(items), MAX_MESSAGES, "messages"),
        (num_bytes, max_bytes, "bytes of text"),
    ):
        if count > limit:
            reason = (
                f"the conversation must have at most {limit} {unit}, got {count} with the input"
            )
            raise InvalidParameter(reason, field="previous_response_id")


def input_item(item_id: str, item: Item) -> MessageItem:
    if item.role == "assistant":
        content = [
            TextContent(type="output_text", text=text, annotations=[], logprobs=[])
            for text in item.texts
        ]
    else:
        content = [TextContent(type="input_text", text=text) for text in item.texts]
    return MessageItem(id=item_id, role=item.role, status="completed", content=content)
