"""The OpenAPI page: schemas of bodies that FastAPI does not parse itself, and shared responses."""

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.examples import ANSWER, REQUESTS
from api.openai.schemas import Model, ModelList, OpenAIErrorBody
from api.schemas import ChatRequest, ErrorBody, JobList, JobView, Purged
from api.system_info import SystemInfo
from shared.protocol import ChatResult

REF = "#/components/schemas/{}"

Responses = dict[int | str, dict[str, Any]]


def json_of(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(schema)}}}
    return {"description": description, "content": content}


def described(description: str = "Yes.") -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }


JOB = json_of("JobView", "The job.")
JOBS = json_of("JobList", "A page of jobs.")
PURGED = json_of("Purged", "What waited is cancelled.")
MODEL = json_of("Model", "The model or adapter.")
MODELS = json_of("ModelList", "The model and its adapters.")
TEXT: dict[str, Any] = {
    "description": "Prometheus text, or JSON where it is asked for.",
    "content": {
        "text/plain": {"schema": {"type": "string"}},
        "application/json": {"schema": {"$ref": REF.format("SystemInfo")}},
    },
}
UNAVAILABLE: Responses = {503: json_of("ErrorBody", "Not now; `Retry-After` says when.")}
BROKEN: Responses = {503: json_of("ErrorBody", "A part of the process has died: restart it.")}
LOOKUP_ERRORS: Responses = {
    404: json_of("ErrorBody", "No such job."),
    422: json_of("ErrorBody", "A parameter outside its range."),
    **UNAVAILABLE,
}
PARAMETER_ERRORS: Responses = {422: LOOKUP_ERRORS[422], **UNAVAILABLE}
RETRY_ERRORS: Responses = {
    409: json_of("ErrorBody", "The job has not ended, or it succeeded."),
    429: json_of("ErrorBody", "The queue is full; `Retry-After` says when to come back."),
    **LOOKUP_ERRORS,
}
ERRORS: Responses = {
    400: json_of("ErrorBody", "A body that cannot be served: no prompt, too long, not JSON."),
    409: json_of("ErrorBody", "The idempotency key came with another body before."),
    413: json_of("ErrorBody", "The body is too large."),
    415: json_of("ErrorBody", "The body is not JSON in UTF-8, or in a coding that is unknown."),
    422: json_of("ErrorBody", "A parameter that is unknown or outside its range."),
    499: json_of("ErrorBody", "The job was cancelled meanwhile."),
    429: json_of("ErrorBody", "The queue is full; `Retry-After` says when to come back."),
    500: json_of("ErrorBody", "The job failed."),
    **UNAVAILABLE,
    504: json_of("ErrorBody", "The wait ended first; the job goes on under its `id`."),
}
OPENAI_UNAVAILABLE: Responses = {
    503: json_of("OpenAIErrorBody", "Not now; `Retry-After` says when."),
}
OPENAI_LOOKUP_ERRORS: Responses = {
    404: json_of("OpenAIErrorBody", "No such model."),
    422: json_of("OpenAIErrorBody", "A parameter outside its range."),
    **OPENAI_UNAVAILABLE,
}
LOCATION = {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}
ACCEPTED: dict[str, Any] = {**json_of("JobView", "Accepted."), "headers": LOCATION}
EVENT_STREAM: dict[str, Any] = {  # of OpenAPI 3.2, as FastAPI writes it in 3.1 too
    "itemSchema": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "id": {"type": "string", "description": "For `Last-Event-ID`."},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "description": "`sequence` and `delta`; in the last event `status`, and the "
                "result or the `error`.",
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
EVENTS: dict[str, Any] = {
    "description": "The job's text from its first token or `Last-Event-ID` on, then its end.",
    "content": {"text/event-stream": EVENT_STREAM},
}


def request_body(schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(schema)}}}
    description = "In UTF-8. May be compressed: `Content-Encoding: gzip` or `deflate`."
    return {"requestBody": {"required": True, "description": description, "content": content}}


def component_schemas() -> dict[str, Any]:
    template = REF.format("{model}")
    _, pydantic = models_json_schema([(ChatRequest, "validation")], ref_template=template)
    _, structs = msgspec.json.schema_components(
        [
            ChatResult,
            JobView,
            JobList,
            Purged,
            ErrorBody,
            SystemInfo,
            Model,
            ModelList,
            OpenAIErrorBody,
        ],
        ref_template=REF.format("{name}"),
    )
    return {**pydantic["$defs"], **structs}


def show_examples(document: dict[str, Any]) -> None:
    """Put the named examples under the routes that take a request; FastAPI would drop nulls."""
    for path in ("/chat", "/jobs"):
        body = document["paths"][path]["post"]["requestBody"]
        body["content"]["application/json"]["examples"] = REQUESTS


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's own document plus the schemas that routes refer to; made once."""

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
            app.openapi_schema = document
        return app.openapi_schema

    return openapi
