"""Run the examples of pages for users as printed, and compare the answers."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.service.local_service import local_service

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/getting-started.md", "docs/guides/client.md")
ADDRESS = "http://127.0.0.1:8000"
VOLATILE = {"id", "seed", "created", "worker", "queue_ms", "run_ms"}
VOLATILE |= {"created_at", "started_at", "finished_at"}


@dataclass(frozen=True, slots=True)
class Example:
    """A command and the output that the page prints below it."""

    command: str
    output: str


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def examples(page: str) -> Iterator[Example]:
    for block in blocks(page, "console"):
        for lines in (part.splitlines() for part in re.split(r"^\$ ", block, flags=re.MULTILINE)):
            length = next((n for n in range(1, len(lines)) if is_complete(lines[:n])), len(lines))
            command = "\n".join(lines[:length])
            if command.startswith(("curl", "echo", "falconer")):
                yield Example(command, "\n".join(lines[length:]))


def is_complete(lines: list[str]) -> bool:
    try:
        shlex.split("\n".join(lines))
    except ValueError:  # a quotation that continues on the next line
        return False
    return True


def runnable(command: str) -> str:
    """Run this environment's `falconer`, and replace jq by Python if jq is not installed."""
    command = re.sub(r"\bfalconer (?=chat|jobs)", f"{sys.executable} -m falconer ", command)
    if shutil.which("jq"):
        return command
    program = r"import json, sys; print(json.load(sys.stdin)['\1'])"
    return re.sub(r"jq -r \.(\w+)", f'{sys.executable} -c "{program}"', command)


def parsed(output: str) -> object:
    """Parse JSON, as a whole or in the events of a stream, without its volatile fields."""
    try:
        return json.loads(output, object_hook=without_volatile)
    except ValueError:
        return [parsed_line(line) for line in output.strip().splitlines()]


def parsed_line(line: str) -> object:
    name, separator, value = line.partition("data: ")
    return json.loads(value, object_hook=without_volatile) if separator and not name else line


def without_volatile(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name not in VOLATILE}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_service() as service:
        yield service.url


def run(command: str | list[str], address: str) -> str:
    result = subprocess.run(
        command,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"FALCONER_URL": address},
    )
    return result.stdout


@pytest.mark.parametrize("page", PAGES)
def test_each_command_prints_what_the_page_shows(address: str, page: str) -> None:
    job_id = ""
    for example in examples(page):
        command = example.command.replace(ADDRESS, address).replace("$ID", job_id)
        output = run(runnable(command), address)
        assert parsed(output) == parsed(example.output), example.command
        if found := re.search(r'"id": ?"([0-9a-f]{32})"', output):
            job_id = found[1]


@pytest.mark.parametrize("page", PAGES)
def test_each_python_example_prints_its_comment(address: str, page: str) -> None:
    for program in blocks(page, "python"):
        expected = re.findall(r"print\(.*\)  # (.*)$", program, flags=re.MULTILINE)
        output = run([sys.executable, "-c", program.replace(ADDRESS, address)], address)
        assert output.splitlines() == expected


def test_the_pages_show_chat_streams_jobs_and_errors() -> None:
    commands = [example.command for page in PAGES for example in examples(page)]
    assert all(ADDRESS in command for command in commands if command.startswith("curl"))
    for part in ("/chat", '"stream": true', "/jobs/$ID", "/events", ".detail", "falconer chat"):
        assert any(part in command for command in commands), part
    assert all(blocks(page, "python") for page in PAGES[:1])
