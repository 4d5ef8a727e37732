"""End the processes of tests, in any state that a failed test left them in."""

import signal
import subprocess
from typing import Any

PATIENCE_S = 60.0


def end(process: "subprocess.Popen[Any]", *, grace_s: float = PATIENCE_S) -> int:
    """Terminate the process, kill it after `grace_s`, close its pipes; return the exit code."""
    if process.poll() is None:
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a frozen process would not see the other signal
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    with process:  # on leaving, the pipes are closed and the exit is awaited
        pass
    return process.returncode
