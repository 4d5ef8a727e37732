"""What `falconer jobs` prints of the texts of jobs."""

import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.falconer.job_service import JOB, PATIENCE_S, JobService, job_service


def followed(service: JobService) -> str:
    """Return what `falconer jobs follow` prints into a pipe."""
    words = (sys.executable, "-m", "falconer", "jobs", "follow", "1", "--url", service.url)
    return subprocess.run(
        words, check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout


def test_a_text_with_its_spaces_cleaned_up_is_printed_once() -> None:
    with job_service() as service:
        service.finish(" Hello, you.", " Hello", " ,", " you .")
        assert followed(service) == "Hello , you .\n"


def test_the_rest_of_a_text_follows_its_deltas() -> None:
    with job_service() as service:
        service.finish(" Hello, you.", " Hello", ",")
        assert followed(service) == "Hello, you.\n"


def test_a_text_without_deltas_is_printed_from_the_result() -> None:
    with job_service() as service:
        service.finish(" Hello, you.")
        assert followed(service) == "Hello, you.\n"


def shown_on_a_terminal(service: JobService, *words: str) -> str:
    """Return what `falconer jobs` writes to a terminal."""
    parent, child = pty.openpty()
    command = (sys.executable, "-m", "falconer", "jobs", *words, "--url", service.url)
    subprocess.run(command, stdin=child, stdout=child, stderr=child, timeout=PATIENCE_S)
    os.close(child)
    shown = b""
    with open(parent, "rb", buffering=0) as screen, suppress(OSError):  # EIO at its end
        while data := screen.read(4096):
            shown += data
    return shown.decode().replace("\r\n", "\n")


CONTROLS = "\x1b]0;title\x07\x9b31m\r\x7f"
ESCAPED = r"\u001b]0;title\u0007\u009b31m\u000d\u007f"


@pytest.mark.parametrize("deltas", [(), (f"a\t{CONTROLS}\n", "b")])
def test_a_terminal_shows_control_characters_as_escapes(deltas: tuple[str, ...]) -> None:
    with job_service() as service:
        service.finish(f"a\t{CONTROLS}\nb", *deltas)
        shown = shown_on_a_terminal(service, "follow", "1").expandtabs()
        assert shown == f"a\t{ESCAPED}\nb\n".expandtabs()


def test_show_and_json_have_no_control_characters_on_a_terminal() -> None:
    with job_service() as service:
        service.finish(f"a{CONTROLS}b")
        service.job |= {"worker": CONTROLS}
        for words in (("show", "1"), ("show", "1", "--json"), ("follow", "1", "--json")):
            shown = shown_on_a_terminal(service, *words)
            assert r"\u009b31m" in shown
            assert not [c for c in shown if not c.isprintable() and c != "\n"]


def test_an_error_has_no_control_characters_on_a_terminal() -> None:
    with job_service() as service:
        error = {"message": CONTROLS, "status_code": 500}
        service.job = JOB | {"status": "failed", "error": error}
        for words in (("show", "1"), ("follow", "1")):
            assert ESCAPED in shown_on_a_terminal(service, *words)


def test_a_pipe_gets_the_text_as_it_is() -> None:
    with job_service() as service:
        service.finish(CONTROLS.replace("\r", ""))
        assert followed(service) == CONTROLS.replace("\r", "") + "\n"
