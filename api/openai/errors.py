"""Failures below `/v1`, as clients of OpenAI's interface read them."""

from api.openai.schemas import OpenAIError, OpenAIErrorBody
from shared.errors import FalconerError, ModelNotFound

CODES: dict[type[FalconerError], str] = {ModelNotFound: "model_not_found"}


def speaks_openai(path: str) -> bool:
    return f"{path}/".startswith("/v1/")


def code_of(error: FalconerError) -> str | None:
    """What tells this failure from others of its status, for programs."""
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
