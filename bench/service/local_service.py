"""A whole service to measure: Redis, api and workers on free loopback ports."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve.main import assemble
from serve.screen import Screen
from serve.settings import ServeSettings
from shared.process.sockets import free_port

START_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class LocalService:
    """Addresses of a running service, and the process of its api."""

    url: str
    redis_url: str
    api_pid: int


@contextmanager
def local_service(*, model: str = "tiny", workers: int = 1) -> Iterator[LocalService]:
    """Start a service, wait until all workers are ready, and stop it at exit."""
    with tempfile.TemporaryDirectory(prefix="falconer-bench-") as folder:
        state_dir = Path(folder)
        (state_dir / "logs").mkdir()
        settings = ServeSettings(
            port=free_port(), model=model, workers=workers, state_dir=state_dir, redis_url=None
        )
        supervisor = assemble(settings, state_dir, Screen(is_quiet=True))
        try:
            supervisor.start(START_TIMEOUT_S)
            api = supervisor.api
            assert api.pid is not None, "a started process has an id"
            yield LocalService(supervisor.url, api.env["FALCONER_REDIS_URL"], api.pid)
        finally:
            supervisor.stop()
