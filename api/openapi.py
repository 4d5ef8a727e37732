"""The OpenAPI document: schemas that FastAPI does not derive itself, and shared responses."""

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.examples import ANSWER, REQUESTS
from api.openai.answers import ChatCompletion, Completion
from api.openai.batches.objects import BatchObject, BatchPage, DeletedFile, FileObject, FilePage
from api.openai.batches.request import BatchRequest
from api.openai.completions.chat import ChatCompletionRequest
from api.openai.completions.completion import CompletionRequest
from api.openai.responses.objects import (
    DeletedResponse,
    InputTokenCount,
    ItemList,
    ResponseObject,
)
from api.openai.responses.request import ResponseRequest
from api.openai.schemas import (
    LoadAdapterRequest,
    Model,
    ModelList,
    OpenAIErrorBody,
    UnloadAdapterRequest,
    is_openai_path,
)
from api.openai.tokenizer import (
    Detokenized,
    DetokenizeRequest,
    TokenizeRequest,
    TokenizerInfo,
    Tokens,
    Version,
)
from api.schemas import (
    ChatRequest,
    ContinueRequest,
    ErrorBody,
    Estimate,
    ForkRequest,
    JobList,
    JobView,
    Purged,
    Trail,
)
from api.system_info import SystemInfo
from shared.results import ChatResult

REF = "#/components/schemas/{}"

Responses = dict[int | str, dict[str, Any]]


def schema_response(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(schema)}}}
    return {"description": description, "content": content}


def object_response(description: str = "OK.") -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }


JOB = schema_response("JobView", "The job.")
JOBS = schema_response("JobList", "A page of jobs.")
TRAIL = schema_response("Trail", "The events of the job.")
ESTIMATE = schema_response("Estimate", "What would become of the request.")
PURGED = schema_response("Purged", "The number of cancelled jobs.")
MODEL = schema_response("Model", "The model or adapter.")
MODELS = schema_response("ModelList", "The model and its adapters.")
INPUT_ITEMS = schema_response("ItemList", "A page of messages.")
INPUT_TOKENS = schema_response("InputTokenCount", "The number of tokens.")
DELETED_RESPONSE = schema_response("DeletedResponse", "Deleted.")
TOKENS = schema_response("Tokens", "The tokens.")
DETOKENIZED = schema_response("Detokenized", "The text.")
TOKENIZER_INFO = schema_response("TokenizerInfo", "Special tokens and chat template.")
VERSION = schema_response("Version", "The version.")
MESSAGE: dict[str, Any] = {
    "description": "The adapter is loaded or unloaded.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}
TEXT: dict[str, Any] = {
    "description": "Prometheus text, or JSON if `Accept` asks for it.",
    "content": {
        "text/plain": {"schema": {"type": "string"}},
        "application/json": {"schema": {"$ref": REF.format("SystemInfo")}},
    },
}
UNAVAILABLE: Responses = {
    503: schema_response("ErrorBody", "Unavailable; retry after `Retry-After`.")
}
BROKEN: Responses = {
    503: schema_response("ErrorBody", "A task of the process has ended: restart it.")
}
LOOKUP_ERRORS: Responses = {
    404: schema_response("ErrorBody", "No such job."),
    422: schema_response("ErrorBody", "An invalid parameter."),
    **UNAVAILABLE,
}
PARAMETER_ERRORS: Responses = {422: LOOKUP_ERRORS[422], **UNAVAILABLE}
RETRY_ERRORS: Responses = {
    409: schema_response("ErrorBody", "The job has not ended, or it succeeded."),
    429: schema_response("ErrorBody", "The queue is full; retry after `Retry-After`."),
    **LOOKUP_ERRORS,
}
ERRORS: Responses = {
    400: schema_response(
        "ErrorBody", "An invalid body: no prompt, a prompt that is too long, or no JSON."
    ),
    404: schema_response("ErrorBody", "No such model."),
    409: schema_response("ErrorBody", "The idempotency key was used with another body."),
    413: schema_response("ErrorBody", "The body is too large."),
    415: schema_response(
        "ErrorBody", "The body is not JSON in UTF-8, or its encoding is unsupported."
    ),
    422: schema_response("ErrorBody", "An unknown or invalid parameter."),
    499: schema_response("ErrorBody", "The job was cancelled."),
    429: schema_response("ErrorBody", "The queue is full; retry after `Retry-After`."),
    500: schema_response("ErrorBody", "The job failed."),
    **UNAVAILABLE,
    504: schema_response("ErrorBody", "The wait timed out; the job with this `id` goes on."),
}
MODEL_ERRORS: Responses = {404: ERRORS[404], **PARAMETER_ERRORS}
TOKENIZER_ERRORS: Responses = {status: ERRORS[status] for status in (400, 404, 413, 415, 422, 503)}
OPENAI_UNAVAILABLE: Responses = {
    503: schema_response("OpenAIErrorBody", "Unavailable; retry after `Retry-After`."),
}
OPENAI_LOOKUP_ERRORS: Responses = {
    404: schema_response("OpenAIErrorBody", "No such model."),
    400: schema_response("OpenAIErrorBody", "An invalid parameter."),
    **OPENAI_UNAVAILABLE,
}
OPENAI_ERRORS: Responses = {
    status: schema_response("OpenAIErrorBody", response["description"])
    for status, response in ERRORS.items()
    if status != 422
}
OPENAI_BODY_ERRORS: Responses = {
    status: OPENAI_ERRORS[status] for status in (400, 404, 413, 415, 503)
}
OPENAI_PARAMETER_ERRORS: Responses = {400: OPENAI_LOOKUP_ERRORS[400], **OPENAI_UNAVAILABLE}
ADAPTER_ERRORS: Responses = {
    status: OPENAI_ERRORS[status] for status in (400, 404, 409, 413, 415, 503)
}
LOCATION = {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}}
ACCEPTED: dict[str, Any] = {**schema_response("JobView", "Accepted."), "headers": LOCATION}
EVENT_STREAM: dict[str, Any] = {  # of OpenAPI 3.2, as FastAPI writes it in 3.1 too
    "itemSchema": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {
                "enum": ["message", "status"],  # message: an event without a name
                "description": "`status` in events about a queued job, which have no `id`.",
            },
            "id": {"type": "string", "description": "For `Last-Event-ID`."},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "description": "`sequence` and `delta`; in the terminal event `status`, and "
                "the result or the `error`; of a queued job `position`, `expected_start_s` and "
                "`waiting_for`.",
            },
        },
    }
}
RESULT: dict[str, Any] = {
    "description": "The result.",
    "content": {
        "application/json": {"schema": {"$ref": REF.format("ChatResult")}, "example": ANSWER},
        "text/event-stream": EVENT_STREAM,
    },
}
CHUNKS: dict[str, Any] = {
    "itemSchema": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {"type": "string", "description": "A chunk as JSON; at the end `[DONE]`."}
        },
    }
}


def openai_answer(schema: str) -> dict[str, Any]:
    response = schema_response(schema, "The answer; with `stream` its chunks.")
    response["content"]["text/event-stream"] = CHUNKS
    return response


CHAT_COMPLETION = openai_answer("ChatCompletion")
COMPLETION = openai_answer("Completion")
RESPONSE = openai_answer("ResponseObject")
EVENTS: dict[str, Any] = {
    "description": "The job's events, from the first or after `Last-Event-ID`.",
    "content": {"text/event-stream": EVENT_STREAM},
}


def request_body(schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(schema)}}}
    description = "JSON in UTF-8. May be compressed: `Content-Encoding: gzip` or `deflate`."
    return {"requestBody": {"required": True, "description": description, "content": content}}


BODIES = (
    ChatRequest,
    ContinueRequest,
    ForkRequest,
    ChatCompletionRequest,
    CompletionRequest,
    ResponseRequest,
    BatchRequest,
    TokenizeRequest,
    DetokenizeRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
)
ANSWERS = (
    ChatResult,
    JobView,
    JobList,
    Purged,
    Trail,
    Estimate,
    ErrorBody,
    SystemInfo,
    Model,
    ModelList,
    ChatCompletion,
    Completion,
    OpenAIErrorBody,
    ResponseObject,
    ItemList,
    DeletedResponse,
    Tokens,
    Detokenized,
    TokenizerInfo,
    Version,
    InputTokenCount,
    FileObject,
    FilePage,
    DeletedFile,
    BatchObject,
    BatchPage,
)


def component_schemas() -> dict[str, Any]:
    template = REF.format("{model}")
    _, pydantic = models_json_schema(
        [(model, "validation") for model in BODIES], ref_template=template
    )
    _, structs = msgspec.json.schema_components(ANSWERS, ref_template=REF.format("{name}"))
    return {**pydantic["$defs"], **structs}


def show_examples(document: dict[str, Any]) -> None:
    """Add the named examples to the routes; FastAPI itself would drop their nulls."""
    for path in ("/chat", "/jobs", "/estimate"):
        body = document["paths"][path]["post"]["requestBody"]
        body["content"]["application/json"]["examples"] = REQUESTS


def omit_422_below_v1(document: dict[str, Any]) -> None:
    """Remove the response that FastAPI adds: below `/v1` an invalid parameter is a 400."""
    for path, operations in document["paths"].items():
        if is_openai_path(path):
            for operation in operations.values():
                operation["responses"].pop("422", None)
    for schema in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(schema, None)


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return a function that makes FastAPI's document with our schemas, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(component_schemas())
            show_examples(document)
            omit_422_below_v1(document)
            app.openapi_schema = document
        return app.openapi_schema

    return openapi
