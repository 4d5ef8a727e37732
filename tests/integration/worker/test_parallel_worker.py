"""A worker with a model in two processes: it serves, stops, and dies as a whole."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared.protocol import Succeeded
from tests.integration.service import Service, WorkerChild, eventually
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]


async def are_gone(processes: list[psutil.Process]) -> None:
    async def none_runs() -> bool:
        return not any(process.is_running() for process in processes)

    await eventually(none_runs)


async def test_a_parallel_worker_serves_and_its_jobs_survive_its_death(
    start_worker: StartWorker, service: Service, tmp_path: Path
) -> None:
    model = write_random_checkpoint(tmp_path / "model", like="40b")
    flags = {"model": model, "tensor_parallel": 2, "device": "cpu"}
    workers = [start_worker(**flags), start_worker(**flags)]
    await service.ready(*workers)
    job = await service.submit(new_tokens=1500)
    await service.wait_until_started(job)
    at_work = (await service.record(job)).worker
    [broken], [other] = (
        [worker for worker in workers if (worker.id == at_work) is is_at_work]
        for is_at_work in (True, False)
    )

    processes = psutil.Process(broken.process.pid).children(recursive=True)
    [follower] = [process for process in processes if "spawn_main" in " ".join(process.cmdline())]
    follower.kill()
    assert await broken.exit_code() == 1, broken.log_text
    assert "killed by SIGKILL" in broken.log_text
    assert isinstance(await job.end(), Succeeded)
    record = await service.record(job)
    assert (record.worker, record.attempts) == (other.id, 2)

    others = psutil.Process(other.process.pid).children(recursive=True)
    other.process.send_signal(signal.SIGTERM)
    assert await other.exit_code() == 0, other.log_text
    await are_gone([*processes, *others])
