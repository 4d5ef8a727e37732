"""End the processes of a test, whatever state a failed test left them in."""

import signal
import subprocess
from typing import Any

PATIENCE_S = 60.0


def end(process: "subprocess.Popen[Any]", *, grace_s: float = PATIENCE_S) -> int:
    """Terminate the process, kill it after `grace_s`, close its pipes; return the exit code."""
    if process.poll() is None:
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a frozen process would not get the other signal
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    with process:  # closes the pipes and waits for the exit
        pass
    return process.returncode
