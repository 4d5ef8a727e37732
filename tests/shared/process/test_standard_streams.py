"""Standard streams that are closed, have no reader or lack a character."""

import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 60.0


def run(code: str, redirection: str, **env: str) -> "subprocess.CompletedProcess[bytes]":
    """Run `code` in a shell with the redirection."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-c", code],
        env=env,
        capture_output=True,
        timeout=PATIENCE_S,
    )


def printing(text: str) -> str:
    return (
        "from shared.process.standard_streams import secure_standard_streams as secure; secure()\n"
        f"from serve.screen import Screen; Screen().say({text!r})"
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_character_that_stdout_lacks_is_escaped(encoding: str) -> None:
    result = run(printing("a…ü"), "", PYTHONIOENCODING=encoding)
    escaped = {"latin-1": b"a\\u2026\xfc", "ascii": b"a\\u2026\\xfc", "utf-8": "a…ü".encode()}
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.strip() == escaped[encoding]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_does_not_get_the_descriptor_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    code = (
        f"{printing('said')}\nimport os, sys; print('printed'); print('error', file=sys.stderr)\n"
    )
    code += f"descriptor = os.open({str(file)!r}, os.O_WRONLY | os.O_CREAT); os.write(1, b'more')\n"
    result = run(f"{code}assert descriptor > 2; assert sys.stdin.read() == ''", f"{closed}")
    assert result.returncode == 0, result.stderr
    assert file.read_bytes() == b""


def test_printing_stops_when_the_reader_closes_the_pipe() -> None:
    code = f"import time; {printing('x')}\n"
    code += "screen = Screen(); [screen.say('y' * 80) for _ in range(2000)]"
    result = run(code, "> >(exec true); echo $?")
    assert (result.stdout, result.stderr) == (b"0\n", b"")


def test_text_is_printed_unchanged() -> None:
    assert run(printing(":cat: [bold]x[/bold]"), "").stdout == b":cat: [bold]x[/bold]\n"
