"""A whole service of our own to measure: real Redis, api and workers on free loopback ports."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from serve.embedded_redis import free_port
from serve.main import assemble
from serve.screen import Screen
from serve.settings import ServeSettings
from shared.errors import FalconerError

START_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class LocalService:
    url: str
    redis_url: str


@contextmanager
def local_service(*, model: str = "tiny", workers: int = 1) -> Iterator[LocalService]:
    """Start it, wait until all workers are there, and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="falconer-bench-") as folder:
        state_dir = Path(folder)
        (state_dir / "logs").mkdir()
        settings = ServeSettings(
            port=free_port(), model=model, workers=workers, state_dir=state_dir, redis_url=None
        )
        supervisor = assemble(settings, state_dir, Screen(Console(quiet=True)))
        try:
            supervisor.start(START_TIMEOUT_S)
            _wait_for_workers(supervisor.url, workers)
            yield LocalService(supervisor.url, supervisor.api.env["FALCONER_REDIS_URL"])
        finally:
            supervisor.stop()


def _wait_for_workers(url: str, workers: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        listed = httpx.get(f"{url}/workers", trust_env=False).json()["workers"]
        if len(listed) == workers:
            return
        time.sleep(0.2)
    raise FalconerError(f"not all of {workers} workers came up in {START_TIMEOUT_S:.0f} s")
