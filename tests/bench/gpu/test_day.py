"""`python -m bench.gpu.day` with small shapes on a CPU: every part runs, within its budget."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.gpu.day.schedule import FIGURES, TABLES, Day, Part, Result
from tests.bench.gpu.test_command import run_module


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / FIGURES).read_text())
    return found


def test_the_command_runs_every_part(tmp_path: Path) -> None:
    flags = ("--device", "cpu", "--small", "--budget", "3000", "--out", str(tmp_path))
    result = run_module("bench.gpu.day.__main__", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    parts = figures(tmp_path)
    assert all("figures" in part for part in parts.values())
    assert parts["environment"]["figures"]["python"] == sys.version.split()[0]
    assert {product["name"] for product in parts["products"]["figures"]} > {"qkv", "head"}
    assert {step["kind"] for step in parts["prefill"]["figures"]} == {"prefill", "mixed"}
    assert all(profile["wall_s"] > 0 for profile in parts["engine"]["figures"])
    assert {profile["by"] for profile in parts["engine"]["figures"]} == {"graph", "launches"}
    for figure in parts["graphs"]["figures"]:  # on a CPU, padding changes no rounding that decides
        assert (figure["greedy"], figure["top_k, top_p"]) == (1.0, 1.0)
    assert min(parts["mixed workload"]["figures"].values()) > 0
    tables = (tmp_path / TABLES).read_text()
    for heading in ("7b, layers separate", "40b, layers fused", "product", "tokens/s", "generate"):
        assert heading in tables


def test_a_part_that_fails_or_has_no_time_ends_no_other(tmp_path: Path) -> None:
    def fail() -> Result:
        raise RuntimeError("out of memory")

    def work() -> Result:
        return Result({"value": 1}, [Table("a heading")])

    parts = [Part("first", 1, fail), Part("long", 1000, work), Part("last", 1, work)]
    assert not Day(tmp_path, 100).run(parts)
    found = figures(tmp_path)
    assert "out of memory" in found["first"]["failed"]
    assert "100 s left of 1000" in found["long"]["skipped"]
    assert found["last"]["figures"] == {"value": 1}
    assert Day(tmp_path, 100).run(parts[1:])
