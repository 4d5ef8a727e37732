"""The objects of `/v1/responses`: the response, its output and its input items."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from api.openai.answers import TokenLogprob
from api.openai.responses.input import Role

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
MessageStatus = Literal["in_progress", "completed", "incomplete"]


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a response failed."""

    code: Literal["invalid_prompt", "rate_limit_exceeded", "server_error"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True, kw_only=True):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """Models here do not reason."""

    effort: None = None
    summary: None = None


class TextContent(msgspec.Struct, frozen=True, kw_only=True):
    """A text of a message. That of the model has annotations and log-probabilities."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | UnsetType = UNSET
    logprobs: list[TokenLogprob] | UnsetType = UNSET


class MessageItem(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the output or of the input."""

    id: str
    type: Literal["message"] = "message"
    role: Role
    status: MessageStatus
    content: list[TextContent]


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response: the fields of its request, the state of its job, and its output."""

    id: str
    object: Literal["response"] = "response"
    created_at: int  # Unix seconds
    completed_at: int | None = None
    status: Status
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: list[MessageItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    presence_penalty: float
    frequency_penalty: float
    prompt_cache_key: str | None
    reasoning: Reasoning = Reasoning()
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the input items of a response."""

    object: Literal["list"] = "list"
    data: list[MessageItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputTokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """The number of tokens of an input, with the tokens of the chat template."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
