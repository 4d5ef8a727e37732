"""A worker reports how far it has read the weights of a checkpoint in many files."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from redis import Redis

from shared.process.sockets import free_port
from shared.queue.keys import Keys
from shared.registry.worker_registry import LoadingWorker, Registry
from tests.redis_server import RedisServer, running_redis
from worker.health import load_reporter
from worker.health.load_reporter import LoadReporter
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.shards import ReadProgress
from worker.model.checkpoint.weights import load_weights, plan_loading
from worker.model.device_map import DeviceMap

TIMEOUT_S = 120.0
CPU = DeviceMap(torch.device("cpu"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_random_checkpoint(folder, hidden_size=256, num_layers=16, max_shard_size="2MB")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as server:
        yield server


class ReportedProgress(ReadProgress):
    """Wait for a report of every count, as if the disk were slow."""

    reports: ClassVar[list[LoadingWorker]] = []

    def __setattr__(self, name: str, value: int) -> None:
        super().__setattr__(name, value)
        deadline = time.monotonic() + TIMEOUT_S
        while name == "num_bytes" and value and self.reports[-1].read_bytes < value:
            assert time.monotonic() < deadline, self.reports[-1]
            time.sleep(0.001)


def test_reports_show_the_read_bytes_and_the_time_for_the_rest(
    checkpoint: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = ReportedProgress.reports
    send = Registry.report_loading

    async def record(registry: Registry, worker: LoadingWorker) -> None:
        await send(registry, worker)
        reports.append(worker)

    monkeypatch.setattr(Registry, "report_loading", record)
    monkeypatch.setattr(load_reporter, "ReadProgress", ReportedProgress)
    plan = plan_loading(checkpoint)
    assert len({header.file for header in plan.headers.values()}) > 5
    with LoadReporter(redis.url, Keys(), "w1", "big", interval_s=0.001) as progress:
        deadline = time.monotonic() + TIMEOUT_S
        while not reports:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        load_weights(plan.following(progress), device_map=CPU)
    assert (
        progress.num_bytes
        == progress.total
        == sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
        - sum(map(header_bytes, checkpoint.glob("*.safetensors")))
    )
    assert len({one.read_bytes for one in reports}) > len(plan.headers)
    read = [one.read_bytes for one in reports]
    assert read == sorted(read)
    first = next(filter(None, read))
    assert all(
        one.eta_s is not None and one.eta_s >= 0 for one in reports if one.read_bytes > first
    )
    with Redis.from_url(redis.url) as client:
        while client.keys("*loading-worker:*"):  # a slow Redis removes the report by its TTL
            assert time.monotonic() < deadline
            time.sleep(0.05)


def header_bytes(file: Path) -> int:
    """Return the bytes before the tensors of a safetensors file."""
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def test_a_worker_loads_without_redis() -> None:
    with LoadReporter(f"redis://127.0.0.1:{free_port()}/0", Keys(), "w1", "m") as progress:
        progress.num_bytes = 1
