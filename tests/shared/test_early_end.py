"""Real commands that are told to end while they start: at once, and without a word."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.redis_server import free_port

PATIENCE_S = 60.0


def catches(pid: int, signum: signal.Signals) -> bool:
    """Whether the process has a handler of its own; Python has none for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signum - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.8])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_still_starting_ends_at_once_and_says_nothing(
    signum: signal.Signals, after_s: float
) -> None:
    """While it imports, and while the model loads."""
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    process = subprocess.Popen(
        [sys.executable, "-m", "falconer", "worker", "--redis-url", redis_url],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + PATIENCE_S
    while not catches(process.pid, signal.SIGTERM):
        assert time.monotonic() < deadline, "it has no handler"
        time.sleep(0.001)
    time.sleep(after_s)
    process.send_signal(signum)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in said
    assert process.returncode in (128 + signum, 0)  # 0: it had started by then
