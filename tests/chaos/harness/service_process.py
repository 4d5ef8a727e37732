"""A process of the service, `falconer api` or `worker`, that a run can kill and restart."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


class ServiceProcess:
    """Runs `command` with `settings`; each start has its own log and worker id."""

    def __init__(
        self, name: str, command: str, settings: dict[str, object], ready_line: str, folder: Path
    ) -> None:
        self.name = name
        self.incarnation = 0
        self._command = command
        self._settings = settings
        self._ready_line = ready_line
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def worker_id(self) -> str:
        """Return a name that is unique per start, as pod names are."""
        return f"{self.name}.{self.incarnation}"

    @property
    def log(self) -> Path:
        return self._folder / f"{self.worker_id}.log"

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def num_fds(self) -> int:
        return int(psutil.Process(self.popen.pid).num_fds())

    @property
    def memory_bytes(self) -> int:
        return int(psutil.Process(self.popen.pid).memory_info().rss)

    def start(self) -> None:
        self.incarnation += 1
        settings = dict(self._settings)
        if self._command == "worker":
            settings["worker_id"] = self.worker_id
        environment = {f"FALCONER_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "falconer", self._command],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )

    async def wait_until_ready(self) -> None:
        """Wait for the log line of a ready process; fail if it exits or takes too long."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._ready_line not in self.log.read_text(errors="replace"):
                assert self.is_alive, f"{self.name} ended during startup, see {self.log}"
                await asyncio.sleep(POLL_S)

    async def kill(self) -> None:
        self.popen.kill()
        await asyncio.to_thread(self.popen.wait, STOP_TIMEOUT_S)

    async def terminate(self) -> int | None:
        """Send SIGTERM and return the exit code; kill a process that ignores it and return None."""
        self.popen.terminate()
        try:
            return await asyncio.to_thread(self.popen.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            await self.kill()
            return None

    def freeze(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.is_alive:
            self.popen.send_signal(signal.SIGCONT)

    async def discard(self) -> None:
        """Kill the process at the end of the run."""
        if self.is_alive:
            self.thaw()
            await self.kill()
