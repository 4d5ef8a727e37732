"""The error tree and its status codes."""

import re
from collections.abc import Iterator

import api.app
import worker.process
from shared import errors
from shared.errors import (
    HTTP_STATUS,
    BadRequest,
    BrokenChatTemplate,
    ClientError,
    FalconerError,
    InvalidParameter,
    JobFailed,
    QueueFull,
    SettingsError,
    UnreadableJob,
    status_code,
)

INTERNAL = {SettingsError, BrokenChatTemplate, UnreadableJob, JobFailed}


def descendants(error: type[FalconerError]) -> Iterator[type[FalconerError]]:
    """Yield the errors of the service; the Python client has its own."""
    for child in error.__subclasses__():
        if not child.__module__.startswith("falconer.client"):
            yield child
            yield from descendants(child)


def test_the_tree_in_the_docstring_shows_all_errors() -> None:
    modules = (api.app, worker.process)  # with all that they import
    defined = {error.__name__ for error in descendants(FalconerError)}
    assert modules and defined == set(re.findall(r"── (\w+)", errors.__doc__ or ""))
    assert defined <= set(vars(errors))


def test_every_error_of_a_request_has_a_status_code() -> None:
    assert set(descendants(FalconerError)) - INTERNAL - {ClientError} == set(HTTP_STATUS)


def test_client_errors_have_a_4xx_status() -> None:
    for error, code in HTTP_STATUS.items():
        assert (400 <= code < 500) == issubclass(error, ClientError)


def test_each_error_has_its_status_code() -> None:
    assert status_code(BadRequest("no prompt")) == 400
    assert status_code(InvalidParameter("too large", field="top_p")) == 422
    assert status_code(QueueFull("full", retry_after_s=3)) == 429
    assert status_code(SettingsError("never seen by a caller")) == 500
