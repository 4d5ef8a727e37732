"""The error tree and its status codes."""

from collections.abc import Iterator

from shared.errors import (
    HTTP_STATUS,
    BadRequest,
    BrokenChatTemplate,
    ClientError,
    FalconerError,
    InvalidParameter,
    QueueFull,
    SettingsError,
    status_code,
)


def leaves(error: type[FalconerError]) -> Iterator[type[FalconerError]]:
    children = error.__subclasses__()
    if not children:
        yield error
    for child in children:
        yield from leaves(child)


def test_every_failure_of_a_request_has_a_status_code() -> None:
    of_the_tree = {error for error in leaves(FalconerError) if error.__module__ == "shared.errors"}
    of_the_start = {SettingsError, BrokenChatTemplate}
    assert of_the_tree - of_the_start == set(HTTP_STATUS)


def test_what_the_caller_can_mend_is_a_4xx() -> None:
    for error, code in HTTP_STATUS.items():
        assert (400 <= code < 500) == issubclass(error, ClientError)


def test_status_codes_follow_the_error() -> None:
    assert status_code(BadRequest("no prompt")) == 400
    assert status_code(InvalidParameter("too large", field="top_p")) == 422
    assert status_code(QueueFull("full", retry_after_s=3)) == 429
    assert status_code(SettingsError("never seen by a caller")) == 500
