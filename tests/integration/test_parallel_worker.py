"""A worker whose network lies in two processes: it serves, it stops, it dies as a whole."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared.protocol import Finished
from tests.integration.service import Service, WorkerChild, eventually
from worker.model.random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]


async def are_gone(processes: list[psutil.Process]) -> None:
    async def none_runs() -> bool:
        return not any(process.is_running() for process in processes)

    await eventually(none_runs)


async def test_a_worker_in_parts_serves_and_ends_with_all_its_processes(
    start_worker: StartWorker, service: Service, tmp_path: Path
) -> None:
    model = write_random_checkpoint(tmp_path / "model", like="40b")
    flags = {"model": model, "tensor_parallel": 2, "device": "cpu"}
    stopped, killed = start_worker(**flags), start_worker(**flags)
    await service.ready(stopped, killed)
    assert isinstance(await (await service.submit(new_tokens=8)).end(), Finished)

    others = psutil.Process(stopped.process.pid).children(recursive=True)
    stopped.process.send_signal(signal.SIGTERM)
    assert await stopped.exit_code() == 0, stopped.log_text
    await are_gone(others)

    others = psutil.Process(killed.process.pid).children(recursive=True)
    killed.kill()
    await are_gone(others)
