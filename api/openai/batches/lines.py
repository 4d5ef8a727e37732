"""The lines of a batch: read one as a request, and write its result."""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from api.openai.answers import Answer, OpenAIUsage
from api.openai.batches.objects import LineError
from api.openai.completions.chat import ChatCompletionRequest
from api.openai.completions.chat_view import ChatView
from api.openai.completions.completion import CompletionRequest
from api.openai.completions.completion_view import CompletionView
from api.openai.request import OpenAIRequest
from api.openai.responses.objects import ResponseObject
from api.openai.responses.request import ResponseRequest
from api.openai.responses.view import UnstoredResponse
from api.openai.schemas import OpenAIErrorBody
from api.openai.view import AnswerHead
from shared.results import ChatResult

MAX_LINES = 50_000
MAX_CUSTOM_ID = 512  # characters


class LineView(Protocol):
    """The jobs of a line as its answer."""

    def answer(self, results: Sequence[ChatResult], /) -> Answer | ResponseObject: ...

    def usage(self, results: Sequence[ChatResult], /) -> OpenAIUsage: ...


# The body and the view of each endpoint's requests.
ENDPOINTS: dict[str, tuple[type[OpenAIRequest], Callable[[Any, AnswerHead], LineView]]] = {
    "/v1/chat/completions": (ChatCompletionRequest, ChatView),
    "/v1/completions": (CompletionRequest, CompletionView),
    "/v1/responses": (ResponseRequest, UnstoredResponse),
}


class RequestLine(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch; the body is read later."""

    custom_id: str
    method: Literal["POST"] = "POST"
    url: str
    body: msgspec.Raw


class _ModelOnly(msgspec.Struct, frozen=True):
    model: str | None = None


class InvalidLine(Exception):
    """A line that makes its file invalid."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def at(self, line: int | None) -> LineError:
        """Return the error as the batch shows it."""
        return LineError(code=self.code, line=line, message=self.message, param=self.param)


def parse_line(data: bytes, endpoint: str) -> RequestLine:
    """Return the request of a line. Raises InvalidLine."""
    try:
        line = msgspec.json.decode(data, type=RequestLine)
    except msgspec.ValidationError as error:
        raise InvalidLine("invalid_request_line", f"the line is no request: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidLine(
            "invalid_json_line", f"the line must be a JSON object: {error}"
        ) from error
    if not 1 <= len(line.custom_id) <= MAX_CUSTOM_ID:
        reason = f"must have 1 to {MAX_CUSTOM_ID} characters"
        raise InvalidLine("invalid_custom_id", f"custom_id {reason}", "custom_id")
    if line.url != endpoint:
        reason = f"url must be the batch's endpoint, {endpoint}"
        raise InvalidLine("mismatched_endpoint", reason, "url")
    if not bytes(line.body).startswith(b"{"):
        raise InvalidLine("invalid_request_line", "body must be a JSON object", "body")
    return line


def model_of(line: RequestLine) -> str | None:
    """Return the model that the body names, if any."""
    try:
        return msgspec.json.decode(line.body, type=_ModelOnly).model
    except (msgspec.MsgspecError, RecursionError):
        return None  # the line itself fails


class LineResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to a line's request, as the route would have sent it."""

    status_code: int
    request_id: str  # the id of the job, or of its first one
    body: Answer | ResponseObject | OpenAIErrorBody | msgspec.Raw


class NoResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Why a line has no response."""

    code: str
    message: str


class ResultLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an output file or of an error file."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: NoResponse | None


def result_line(
    custom_id: str, response: LineResponse | None = None, error: NoResponse | None = None
) -> bytes:
    """Return the line, with its line break."""
    line = ResultLine(
        id=f"batch_req_{secrets.token_hex(16)}", custom_id=custom_id, response=response, error=error
    )
    return msgspec.json.encode(line) + b"\n"
