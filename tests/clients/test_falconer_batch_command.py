"""`falconer batch` against a running service."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from falconer import Client
from tests.clients.test_falconer_batches import long_requests, request, write
from tests.clients.test_falconer_commands import FALCONER, run
from tests.terminal import PATIENCE_S

pytestmark = pytest.mark.integration


def names_in(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_file_is_run_and_its_answers_and_errors_are_written(url: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [request("good"), request("bad", top_p=7)])
    output, errors = tmp_path / "out.jsonl", tmp_path / "err.jsonl"
    words = ("batch", "run", str(source), "--output", str(output), "--errors", str(errors))
    shown = run(url, *words, code=1)  # a line failed
    assert f"output: {output}\n" in shown
    assert (names_in(output), names_in(errors)) == (["good"], ["bad"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "err.jsonl",
        "in.jsonl",
        "out.jsonl",
    ]


def test_a_submitted_batch_is_listed_waited_for_and_shown(url: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [request("one")])
    batch_id = run(url, "batch", "submit", str(source)).strip()
    output = tmp_path / "out.jsonl"
    waited = run(url, "batch", "wait", batch_id, "--output", str(output))
    assert waited.startswith(f"{batch_id}  completed  ")
    assert waited.endswith("  1 of 1 answered, 0 failed\n")
    assert names_in(output) == ["one"]
    assert run(url, "batch", "list", "--limit", "1") == waited
    assert run(url, "batch", "show", batch_id) == waited
    assert json.loads(run(url, "batch", "show", batch_id, "--json"))["id"] == batch_id
    nowhere = tmp_path / "none" / "out.jsonl"
    error = run(url, "batch", "wait", batch_id, "--output", str(nowhere), code=2)
    assert f"{nowhere} must be a path to write to" in error


def test_a_batch_survives_an_interrupt_and_is_waited_for_again(url: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", long_requests())
    with subprocess.Popen(
        [*FALCONER, "batch", "run", str(source)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FALCONER_URL": url},
    ) as process:
        assert process.stderr is not None
        batch_id = process.stderr.readline().strip()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert f"`falconer batch wait {batch_id}`" in rest
    with Client(url) as client:
        assert not client.batches.get(batch_id).status.is_final
    assert "cancelling" in run(url, "batch", "cancel", batch_id)
    paths = ("--output", str(tmp_path / "out"), "--errors", str(tmp_path / "errors.jsonl"))
    run(url, "batch", "wait", batch_id, *paths, code=1)
    assert "r99" in names_in(tmp_path / "errors.jsonl")


def test_a_wrong_file_is_one_line_and_its_lines_are_shown(url: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("no json\n")
    error = run(url, "batch", "run", str(source), code=2)
    assert "failed: line 1: the line must be a JSON object" in error
    batch_id = error.split()[0]
    assert "line 1: the line must be" in run(url, "batch", "show", batch_id)
    assert "must be readable" in run(url, "batch", "run", str(tmp_path / "none"), code=2)
