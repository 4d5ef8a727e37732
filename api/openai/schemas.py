"""Bodies in the shapes that clients of OpenAI's interface read."""

from typing import Literal

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model, which has no parent, or an adapter of it; `root` is the model in either case.

    `created`, in Unix seconds, is when this replica of the api started.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "falconer"
    root: str
    parent: str | None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may name at present."""

    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """`param` is the field to blame, if one is; `code` is there for programs."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    """Every refusal and failure below `/v1`."""

    error: OpenAIError
