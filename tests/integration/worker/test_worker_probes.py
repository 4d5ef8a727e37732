"""Probes and metrics of a worker process."""

import re
from collections.abc import Callable

import httpx
import pytest

from shared.protocol import Succeeded
from tests.integration.service import Service, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]


async def test_a_worker_reports_its_health_and_its_work(
    start_worker: StartWorker, service: Service
) -> None:
    worker = start_worker(metrics_port=0, log_format="json")
    await service.ready(worker)
    assert isinstance(await (await service.submit(new_tokens=8)).end(), Succeeded)
    async with httpx.AsyncClient(base_url=await url_of(worker), timeout=30) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        told = (await client.get("/metrics")).text
    assert value_of(told, "falconer_batch_rows_count") >= 8
    assert value_of(told, 'falconer_step_seconds_count{phase="forward"}') >= 8
    assert value_of(told, 'falconer_kv_blocks{state="used"}') == 0
    assert value_of(told, 'falconer_attempts_total{outcome="succeeded"}') == 1
    assert value_of(told, "falconer_computed_tokens_total") > 8


async def url_of(worker: WorkerChild) -> str:
    pattern = re.compile(r'"event": ?"probes and metrics".*?')

    async def is_told() -> bool:
        return pattern.search(worker.log_text) is not None

    await eventually(is_told)
    [line] = [line for line in worker.log_text.splitlines() if pattern.search(line)]
    port = re.search(r'"port": ?(\d+)', line)
    assert port is not None
    return f"http://127.0.0.1:{port[1]}"


def value_of(told: str, sample: str) -> float:
    [line] = [line for line in told.splitlines() if line.startswith(f"{sample} ")]
    return float(line.rpartition(" ")[2])
