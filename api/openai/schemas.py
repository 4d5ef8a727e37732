"""Responses below `/v1`, in the shapes of OpenAI's interface: models and errors."""

from typing import Literal

import msgspec

from shared.errors import FalconerError, ModelNotFound

CODES: dict[type[FalconerError], str] = {ModelNotFound: "model_not_found"}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model of the workers, or one of its adapters."""

    id: str
    object: Literal["model"] = "model"
    created: int  # when this api replica started, in Unix seconds
    owned_by: str = "falconer"
    root: str  # the model, also for an adapter
    parent: str | None  # the model of an adapter; None for the model itself


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The models that a request may name."""

    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a request failed."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None  # the invalid field, if one field is invalid
    code: str | None  # distinguishes errors of one status, for programs


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    """The body of every error response below `/v1`."""

    error: OpenAIError


def is_openai_path(path: str) -> bool:
    return f"{path}/".startswith("/v1/")


def openai_code(error: FalconerError) -> str | None:
    return CODES.get(type(error))


def openai_error(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> OpenAIErrorBody:
    return OpenAIErrorBody(
        OpenAIError(
            message=message,
            type="server_error" if status >= 500 else "invalid_request_error",
            param=param,
            code=code,
        )
    )
