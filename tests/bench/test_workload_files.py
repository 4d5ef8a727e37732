"""Workload files: how lines are read, and the errors of invalid files."""

from pathlib import Path

import pytest

from bench.workloads import WorkItem, read_workload
from shared.errors import FalconerError


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lines_become_requests_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "w.jsonl",
        '{"prompt": "a", "generate_kwargs": {"max_new_tokens": 3}}',
        "",
        '{"prompt_ids": [1, 2]}',
    )
    first = WorkItem(prompt="a", generate_kwargs={"max_new_tokens": 3})
    assert read_workload(path) == [first, WorkItem(prompt_ids=[1, 2])]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"promt": "a"}', "{}", '{"prompt": "a", "prompt_ids": [1]}']
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "w.jsonl", '{"prompt": "a"}', line)
    with pytest.raises(FalconerError, match="line 2"):
        read_workload(path)


def test_a_missing_or_empty_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="no such file"):
        read_workload(tmp_path / "none")
    with pytest.raises(FalconerError, match="no request"):
        read_workload(write(tmp_path / "empty"))


def test_a_line_ends_only_at_a_line_feed(tmp_path: Path) -> None:
    path = write(tmp_path / "w.jsonl", '{"prompt": "one\u2028two"}')
    assert read_workload(path) == [WorkItem(prompt="one\u2028two")]


def test_the_error_names_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(FalconerError, match="not UTF-8"):
        read_workload(path)
