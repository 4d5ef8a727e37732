"""Responses below `/v1`, in the shapes of OpenAI's interface: models and errors."""

from typing import Literal

import msgspec
from pydantic import Field

from api.schemas import MAX_ADAPTER_NAME, MAX_MODEL_NAME
from shared.errors import (
    BadRequest,
    ClientError,
    FalconerError,
    Forbidden,
    InvalidParameter,
    ModelNotFound,
    QueueFull,
    Unauthorized,
    WaitTooLong,
)
from shared.request.base_model import OptionalFieldsModel

MAX_PATH = 4096  # characters
CODES: dict[type[FalconerError], str] = {
    BadRequest: "invalid_value",
    InvalidParameter: "invalid_value",
    Unauthorized: "invalid_api_key",
    Forbidden: "insufficient_permissions",
    ModelNotFound: "model_not_found",
    QueueFull: "rate_limit_exceeded",
    WaitTooLong: "rate_limit_exceeded",
}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model of the workers, or one of its adapters."""

    id: str
    object: Literal["model"] = "model"
    created: int  # when a worker first registered the model, in Unix seconds; 0 before
    owned_by: str = "falconer"
    root: str  # the model, also for an adapter
    parent: str | None  # the model of an adapter; None for the model itself
    max_model_len: int | None  # the model's context; None until a worker has registered it


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The models that a request may name."""

    object: Literal["list"] = "list"
    data: list[Model]


class LoadAdapterRequest(OptionalFieldsModel):
    """An adapter to load on all workers."""

    lora_name: str = Field(
        min_length=1, max_length=MAX_ADAPTER_NAME, description="Name that requests give."
    )
    lora_path: str = Field(
        min_length=1, max_length=MAX_PATH, description="Folder below --runtime-adapters-dir."
    )
    model: str | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="Name of its model, with several."
    )
    load_inplace: bool = Field(default=False, description="Replace an adapter of this name.")


class UnloadAdapterRequest(OptionalFieldsModel):
    """An adapter to unload from all workers."""

    lora_name: str = Field(
        min_length=1, max_length=MAX_ADAPTER_NAME, description="Name of a loaded adapter."
    )
    model: str | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="Name of its model, with several."
    )


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a request failed."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None  # the invalid field, if one field is invalid
    code: str | None  # distinguishes errors of one status, for programs


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    """The body of every error response below `/v1`."""

    error: OpenAIError


def is_openai_path(path: str) -> bool:
    return f"{path}/".startswith("/v1/")


def openai_code(error: FalconerError) -> str | None:
    code = error.code if isinstance(error, ClientError) else None
    return code or CODES.get(type(error))


def openai_error(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> OpenAIErrorBody:
    """Return the error; its message names the invalid field, as the SDKs show only the message."""
    return OpenAIErrorBody(
        OpenAIError(
            message=f"{param}: {message}" if param else message,
            type=error_type(status),
            param=param,
            code=code,
        )
    )


def error_type(status: int) -> Literal["invalid_request_error", "rate_limit_error", "server_error"]:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def openai_status(status: int) -> int:
    """Return the status below `/v1`: OpenAI answers an invalid parameter with 400."""
    return 400 if status == 422 else status
