"""A worker's probes, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from redis.exceptions import ConnectionError

from shared.process.asyncio_tasks import cancel_all
from shared.process.sockets import listen
from worker.health.metrics import WorkerMetrics
from worker.health.probes import Probes


@dataclass
class State:
    is_alive: bool = True
    is_registered: bool = True
    is_redis_unreachable: bool = False

    async def is_ready(self) -> bool:
        if self.is_redis_unreachable:
            raise ConnectionError("no Redis")
        return self.is_registered


@asynccontextmanager
async def serve(state: State) -> AsyncIterator[httpx.AsyncClient]:
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    probes = Probes(WorkerMetrics(), lambda: state.is_alive, state.is_ready)
    serving = asyncio.create_task(probes.run(listener))
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client
    finally:
        await cancel_all([serving])


async def test_a_healthy_worker_is_alive_and_ready() -> None:
    async with serve(State()) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


async def test_a_worker_with_a_stuck_engine_is_not_alive() -> None:
    async with serve(State(is_alive=False)) as client:
        response = await client.get("/livez")
    assert response.status_code == 503
    assert "engine step" in response.json()["detail"]


async def test_a_worker_is_not_ready_while_unregistered_or_without_redis() -> None:
    async with serve(State(is_registered=False)) as client:
        assert (await client.get("/readyz")).status_code == 503
    async with serve(State(is_redis_unreachable=True)) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert "Redis" in response.json()["detail"]


async def test_metrics_are_prometheus_text() -> None:
    async with serve(State()) as client:
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "falconer_batch_rows_bucket" in response.text


async def test_the_port_is_free_after_shutdown() -> None:
    async with serve(State()) as client:
        port = client.base_url.port
        assert (await client.get("/livez")).status_code == 200
    assert port is not None
    listen("127.0.0.1", port).close()
