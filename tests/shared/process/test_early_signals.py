"""Real commands that are told to end while they start: at once, and without a word."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S, end
from tests.redis_server import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@contextmanager
def starting_worker() -> "Iterator[subprocess.Popen[bytes]]":
    """Start a worker and wait until it has set its handlers; Python has none for SIGTERM."""
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    process = subprocess.Popen(
        [sys.executable, "-m", "falconer", "worker", "--redis-url", redis_url],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_in_mask(process.pid, "SigCgt", signal.SIGTERM):
            assert time.monotonic() < deadline, "it has no handler"
            time.sleep(0.001)
        yield process
    finally:
        end(process)


def is_in_mask(pid: int, mask: str, signum: signal.Signals) -> bool:
    """Whether a mask of the process (`SigCgt`: handled, `SigIgn`: ignored) has the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    bits = int(status.partition(f"{mask}:")[2].split()[0], 16)
    return bool(bits >> (signum - 1) & 1)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.8])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_still_starting_ends_at_once_and_says_nothing(
    signum: signal.Signals, after_s: float
) -> None:
    """While it imports, and while the model loads."""
    with starting_worker() as process:
        time.sleep(after_s)
        process.send_signal(signum)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in said
    assert process.returncode in (128 + signum, 0)  # 0: it had started by then


def test_a_command_that_was_started_with_sigint_ignored_goes_on_ignoring_it() -> None:
    """As a background job of a shell is: Ctrl-C is meant for what runs in the foreground."""
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with starting_worker() as process:
            assert is_in_mask(process.pid, "SigIgn", signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)
