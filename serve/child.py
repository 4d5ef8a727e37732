"""Start, restart and stop one supervised child process.

Each child has its own session: Ctrl-C reaches only the supervisor, which stops the children in
order. On Linux the kernel kills them when the supervisor is killed.
"""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_AFTER_S = 60.0  # a child that ran for so long is restarted without a delay


@dataclass(slots=True)
class Child:
    """One child process: how to start it, and its latest run."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stdin: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    num_deaths: int = field(default=0, init=False)
    restart_at: float | None = field(default=None, init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.env),
                stdin=subprocess.PIPE if self.stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        if self.stdin and self.process.stdin:
            self.process.stdin.write(self.stdin.encode())
            self.process.stdin.close()
        self.started_at, self.restart_at = time.monotonic(), None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def returncode(self) -> int | None:
        """Return the exit code; None while the child runs or before its start."""
        return self.process.poll() if self.process else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.returncode is None

    def restart_if_dead(self, say: Callable[[str], None]) -> None:
        """Restart the child if it exited, after a delay that grows with each early exit."""
        now = time.monotonic()
        if self.restart_at is None:
            if self.returncode is None:
                return
            uptime_s = now - self.started_at
            self.num_deaths = 0 if uptime_s > STABLE_AFTER_S else self.num_deaths + 1
            delay_s = BACKOFF_S[min(max(self.num_deaths - 1, 0), len(BACKOFF_S) - 1)]
            self.restart_at = now + delay_s
            wait = f" in {delay_s:.0f} s" if delay_s else ""
            say(f"{self.name} (pid {self.pid}) {self.death}; restarting it{wait}; see {self.log}")
        if now >= self.restart_at:
            self.start()
            say(f"{self.name} runs again as pid {self.pid}")

    @property
    def death(self) -> str:
        code = self.returncode
        if code is not None and code < 0:
            hint = " (as the kernel does when memory runs out)" if code == -signal.SIGKILL else ""
            return f"was killed by {signal.Signals(-code).name}{hint}"
        return f"ended with exit code {code}"

    def terminate(self) -> None:
        if self.process and self.is_running:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Wait for the exit until `deadline` on the monotonic clock, then kill the child."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_line(self) -> str:
        """Return the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_PDEATHSIG = 1
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
