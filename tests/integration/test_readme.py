"""The README's examples, run as a newcomer would paste them: they answer as printed."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.local_service import local_service

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Example:
    command: str
    answer: str


def examples() -> Iterator[Example]:
    for block in re.findall(r"```console\n(.*?)```", README.read_text(), flags=re.DOTALL):
        for command, _, answer in (part.partition("\n") for part in block.split("$ ")):
            if command.startswith("curl"):
                yield Example(command, answer)


def without_chance(answer: str) -> str:
    """Take out what differs from call to call: ids, drawn seeds, times, the worker's name."""
    answer = re.sub(r"[0-9a-f]{32}", "<id>", answer)
    answer = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", answer)
    answer = re.sub(r'"(seed|queue_ms|run_ms|created)":[\d.]+', r'"\1":<number>', answer)
    return re.sub(r'"worker":"[^"]+"', '"worker":<name>', answer)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_service() as service:
        yield service.url


def test_every_example_answers_as_printed(address: str) -> None:
    job_id = ""
    for example in examples():
        command = example.command.replace(ADDRESS, address).replace("$ID", job_id)
        result = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=120, check=True
        )
        told, printed = without_chance(result.stdout), without_chance(example.answer)
        assert told.strip() == printed.strip(), example.command
        if found := re.search(r'"id":"([0-9a-f]{32})"', result.stdout):
            job_id = found[1]


def test_there_are_examples_for_chat_jobs_and_errors() -> None:
    commands = [example.command for example in examples()]
    assert len(commands) >= 6
    assert all(ADDRESS in command for command in commands)
    assert any("/jobs/$ID" in command for command in commands)
