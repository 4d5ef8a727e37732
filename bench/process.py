"""Run commands that measure: from their arguments, or in a process of its own.

All processes get the same threads and the same allocator settings.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer

from shared.errors import FalconerError
from shared.process.allocator import HUGE_PAGES

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 600
MAX_ERROR_CHARS = 300
KEPT_BYTES = str(2**30)  # the allocator keeps buffers up to this size, which avoids page faults


def environment(threads: int, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with the settings that every measurement shares."""
    return {
        **HUGE_PAGES,  # as `falconer serve` and the image set them
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": KEPT_BYTES,
        "MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
        "HF_HUB_OFFLINE": "1",
        **(variables or {}),
    }


def run_to_json(
    command: Sequence[str],
    json_out: Path,
    threads: int,
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Run a command of this project and return the JSON that it wrote.

    Raises FalconerError with the end of its output when it fails.
    """
    env = environment(threads, variables)
    try:
        result = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise FalconerError(f"took more than {TIMEOUT_S} s") from error
    if result.returncode:
        raise FalconerError(" ".join(result.stderr.split())[-MAX_ERROR_CHARS:])
    return json.loads(json_out.read_text())


def run_command(name: str, command: Callable[..., None]) -> NoReturn:
    """Run a command with this process's arguments; exit with 2 and one line if it fails."""
    try:
        typer.run(command)
    except FalconerError as error:
        print(f"{name}: {error.message}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
