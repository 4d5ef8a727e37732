"""Runs of pytest with tests that hang, fail badly or lose their terminal."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE_S = 200
PASSES = "def test_passes():\n    pass\n"
HANGS = """
import asyncio, ctypes, threading
import pytest

async def test_a_task():
    await asyncio.Event().wait()

def test_a_thread():
    threading.Event().wait()

def test_a_call_that_holds_the_interpreter():
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

@pytest.fixture
def hangs_after_its_test():
    yield
    threading.Event().wait()

def test_a_teardown_after_a_failure(hangs_after_its_test):
    raise ValueError("the failure itself")

def test_passes():
    pass
"""
LEAVES = """
import gc, subprocess, sys

class Cycle:
    pass

def test_a_failure_that_leaves_a_process():
    cycle = Cycle()
    cycle.itself = cycle
    cycle.process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    raise ValueError("the failure itself")

def test_passes():
    gc.collect()
"""
OUTLIVES = """
import pathlib, signal, subprocess, sys, time

def test_a_child(tmp_path_factory):
    here = pathlib.Path(__file__).parent
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        (here / "is-up").touch()
        while not (here / "terminal-is-closed").exists():
            time.sleep(0.01)
        child.communicate(b"end")
    assert child.returncode == 0
"""


def pytest_command(directory: Path, *flags: str) -> list[str]:
    """Return the command to run the folder's tests with the suite's settings."""
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    command += ["-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "1", *flags]
    return [*command, str(directory)]


def pytest_run(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    options = ["-o", "timeout=1", "-o", "faulthandler_timeout=2"]
    command = pytest_command(directory, *options, *flags)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_run_with_hung_tests_ends_and_names_them(tmp_path: Path) -> None:
    """Tests that run Python fail. Other tests end their runner, and a new runner continues."""
    for name, text in {"1_before": PASSES, "2_hangs": HANGS, "3_after": PASSES}.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    run = pytest_run(tmp_path)
    said = run.stdout + run.stderr
    ends = re.findall(r"^(?:FAILED|ERROR) \S*::(\w+)", run.stdout, re.MULTILINE)
    assert sorted(ends) == [
        "test_a_call_that_holds_the_interpreter",
        "test_a_task",
        "test_a_teardown_after_a_failure",
        "test_a_teardown_after_a_failure",  # the failure, and the end of its runner
        "test_a_thread",
    ], said
    assert "5 failed, 3 passed" in run.stdout, said
    assert "Failed: Timeout (>1.0s) from pytest-timeout." in run.stdout, said
    assert "the failure itself" in run.stdout, said
    assert re.search(r'test_2_hangs.py", line \d+ in test_a_call_that_holds', said), said
    assert re.search(r'test_2_hangs.py", line \d+ in hangs_after_its_test', said), said


def test_a_run_that_takes_too_long_ends(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(PASSES + PASSES.replace("passes", "is_not_run"))
    run = pytest_run(tmp_path, "--session-timeout", "0.0001")
    assert "session-timeout: 0.0001 sec exceeded" in run.stdout
    assert "1 passed" in run.stdout
    assert run.returncode == pytest.ExitCode.INTERRUPTED


def test_open_resources_of_a_failed_test_fail_no_other_test(tmp_path: Path) -> None:
    (tmp_path / "test_leaves.py").write_text(LEAVES)
    run = pytest_run(tmp_path, "-n", "0")
    assert "1 failed, 1 passed" in run.stdout, run.stdout
    assert "unraisable" not in run.stdout.lower()


def test_a_run_under_nohup_survives_the_end_of_its_terminal(tmp_path: Path) -> None:
    """The processes of its tests survive, too, though they do not inherit nohup's settings."""
    (tmp_path / "test_outlives.py").write_text(OUTLIVES)
    nohup = ["sh", "-c", 'trap "" HUP; "$@"; exit $?', "sh", *pytest_command(tmp_path)]
    deadline = time.monotonic() + PATIENCE_S
    with subprocess.Popen(
        nohup, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        while not (tmp_path / "is-up").exists():
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGHUP)
        (tmp_path / "terminal-is-closed").touch()
        said, _ = run.communicate(timeout=PATIENCE_S)
    assert "1 passed" in said, said
