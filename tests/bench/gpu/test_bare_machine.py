"""The GPU benchmark and the GPU tests run without the service's packages."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BARE = "tests.bench.gpu.bare_machine"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_engine_and_benchmark_are_imported_without_the_service() -> None:
    result = run(
        "-c", f"import {BARE}, worker.engine, worker.model.checkpoint.weights, bench.gpu.__main__"
    )
    assert result.returncode == 0, result.stderr


def test_the_documented_command_collects_every_test_that_needs_a_gpu() -> None:
    page = (ROOT / "docs" / "guides" / "gpu.md").read_text()
    [flags] = re.findall(r"^    python -m pytest (.+)$", page, flags=re.MULTILINE)
    # pytest-asyncio registers itself if it is installed.
    result = run(
        "-m", "pytest", "-p", "no:asyncio", "-p", BARE, "--collect-only", "-q", *shlex.split(flags)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    collected = set(re.findall(r"^(tests/\S+\.py)::", result.stdout, flags=re.MULTILINE))
    tests = (ROOT / "tests").rglob("test_*.py")
    marked = {
        str(path.relative_to(ROOT))
        for path in tests
        if re.search(r"^(@| +)pytest\.mark\.gpu\b", path.read_text(), flags=re.MULTILINE)
    }
    assert collected == marked
