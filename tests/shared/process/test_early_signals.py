"""Signals during the startup of a command: it exits at once, without a traceback."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.process.sockets import free_port
from tests.processes import PATIENCE_S, end

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@contextmanager
def starting_worker() -> "Iterator[subprocess.Popen[bytes]]":
    """Start a worker and wait for its handler of SIGTERM, which Python alone has not."""
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    process = subprocess.Popen(
        [sys.executable, "-m", "falconer", "worker", "--redis-url", redis_url],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_in_mask(process.pid, "SigCgt", signal.SIGTERM):
            assert time.monotonic() < deadline, "the process has no handler"
            time.sleep(0.001)
        yield process
    finally:
        end(process)


def is_in_mask(pid: int, mask: str, signum: signal.Signals) -> bool:
    """Return whether the mask `SigCgt` (handled) or `SigIgn` (ignored) has the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    bits = int(status.partition(f"{mask}:")[2].split()[0], 16)
    return bool(bits >> (signum - 1) & 1)


@pytest.mark.parametrize("after_s", [0.0, 0.5])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_startup_ends_the_command_without_a_traceback(
    signum: signal.Signals, after_s: float
) -> None:
    """During the imports, and while the model loads."""
    with starting_worker() as process:
        time.sleep(after_s)
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in stderr
    assert process.returncode in (128 + signum, 0)  # 0: the startup was complete


def test_an_ignored_sigint_stays_ignored() -> None:
    """Shells start background jobs so: Ctrl-C is for the job in the foreground."""
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with starting_worker() as process:
            assert is_in_mask(process.pid, "SigIgn", signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)
