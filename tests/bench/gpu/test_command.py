"""`python -m bench.gpu` with small shapes on a CPU: every part runs and reports its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
DECODED = [(kind, num_rows) for num_rows in (1, 4) for kind in ("decode", "graph")]
RATES = ("copied_bytes", "read_bytes", "flop")


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return run_module("bench.gpu.__main__", *flags)


def run_module(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the `main` of a module without the service's packages."""
    code = f"import tests.bench.gpu.bare_machine; from {module} import main; main()"
    command = [sys.executable, "-c", code, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads slow down shapes this small
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_command_runs_all_checks_and_measurements(tmp_path: Path) -> None:
    json_out = tmp_path / "out.json"
    flags = ("--device", "cpu", "--small", "--folder", str(tmp_path), "--json", str(json_out))
    result = run(*flags)
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(json_out.read_text())
    assert len(figures["checks"]) == 6
    assert all(check["passed"] for check in figures["checks"])
    assert all(figures["card"][f"{what}_per_s"] > 0 for what in RATES)
    for like in ("7b", "40b"):
        kinds = [(time["kind"], time["num_rows"]) for time in figures["steps"][like]]
        assert kinds == [*DECODED, ("prefill", 1)]
        assert all(time["of_floor"] > 0 for time in figures["steps"][like])
    assert figures["throughput"]["falconer"] > 0 < figures["throughput"]["generate"]
    assert figures["profile"]["kernels"][0]["seconds"] > 0
    assert figures["profile"]["idle_share"] is None, "a CPU waits for nobody"
    for start in (figures["starts"]["cold"], figures["starts"]["cached"]):
        assert start["read_s"] > 0
        assert start["report"]["weights_s"] < start["first_token_s"]
        assert start["num_bytes"] > start["report"]["read_gb"] * 1e9, "headers are read, too"
    for heading in ("memory, read", "passed", "7b: step", "40b: step", "kernel", "first token"):
        assert heading in result.stdout


def test_a_missing_device_is_a_one_line_error() -> None:
    result = run("--device", "cuda:99")
    assert result.returncode == 2
    assert result.stderr.startswith("bench.gpu: --device cuda:99 does not exist: this machine has ")
    assert result.stderr.count("\n") == 1
