"""`POST /v1/chat/completions` and `POST /v1/completions`: OpenAI's view of jobs."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.headers import IdempotencyKey
from api.openai.completions.chat import ChatCompletionRequest
from api.openai.completions.chat_view import ChatView
from api.openai.completions.completion import CompletionRequest
from api.openai.completions.completion_view import CompletionView
from api.openai.view import MakeView, T
from api.openapi import CHAT_COMPLETION, COMPLETION, OPENAI_ERRORS, request_body
from api.routes.v1.chunk_stream import ChunkStream, ChunkStreamResponse
from api.routes.v1.request_jobs import answer_when_done, read_openai_request, submit
from api.services import services_of

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    responses={200: CHAT_COMPLETION, **OPENAI_ERRORS},
    openapi_extra=request_body("ChatCompletionRequest"),
)
async def chat_completions(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Answer a conversation, as OpenAI's interface does. A disconnect cancels the job."""
    return await respond(request, ChatCompletionRequest, ChatView, idempotency_key)


@router.post(
    "/v1/completions",
    summary="Continue prompts",
    responses={200: COMPLETION, **OPENAI_ERRORS},
    openapi_extra=request_body("CompletionRequest"),
)
async def completions(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Continue one or several prompts, as OpenAI's interface does, each with a job of its own."""
    return await respond(request, CompletionRequest, CompletionView, idempotency_key)


async def respond(
    request: Request, model: type[T], view: MakeView[T], idempotency_key: str | None
) -> Response:
    """Submit the jobs of the body; return their answer, or the stream of it."""
    services = services_of(request)
    body = await read_openai_request(request, services, model)
    jobs = await submit(request, services, body, idempotency_key)
    body = body.for_answer()  # frees the prompt before the request waits
    if body.stream:
        chunks = ChunkStream(jobs, view, body).events()
        return ChunkStreamResponse(request, jobs, chunks)
    with jobs:
        return await answer_when_done(request, jobs, view, body)
