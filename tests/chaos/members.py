"""One process of the service, `falconer api` or `falconer worker`: to be killed and restarted."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1


class Member:
    """Each incarnation writes a log of its own; `settings` are those of the command."""

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
        """A name of its own for each incarnation, as a pod has."""
        return f"{self.name}.{self.incarnation}"

    @property
    def log(self) -> Path:
        return self._folder / f"{self.worker_id}.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def num_fds(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    @property
    def memory_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

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

    async def ready(self) -> None:
        """Wait for the line that says so; fails if the process ends or is silent for too long."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._ready_line not in self.log.read_text(errors="replace"):
                assert self.is_alive, f"{self.name} ended at its start, see {self.log}"
                await asyncio.sleep(LOOK_EVERY_S)

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.wait, STOP_TIMEOUT_S)

    async def terminate(self) -> int | None:
        """Ask for an orderly end; the exit code, None if it had to be killed after all."""
        self.process.terminate()
        try:
            return await asyncio.to_thread(self.process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            await self.kill()
            return None

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.is_alive:
            self.process.send_signal(signal.SIGCONT)

    async def discard(self) -> None:
        """The run is over."""
        if self.is_alive:
            self.thaw()
            await self.kill()
