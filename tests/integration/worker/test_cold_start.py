"""Scaled to zero: jobs wait, report why, and run as soon as a worker has started."""

import asyncio
from collections.abc import Callable

import httpx

from tests.api.api_process import ApiProcess
from tests.integration.service import WAIT_S, WorkerChild, eventually
from tests.redis_server import RedisServer

BODY = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": 4}}


async def test_jobs_wait_through_the_cold_start_of_a_worker(
    redis_server: RedisServer, start_worker: Callable[..., WorkerChild]
) -> None:
    api = await asyncio.to_thread(ApiProcess, redis_server.url)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}") as http:
            call = asyncio.create_task(http.post("/chat", json=BODY, timeout=2 * WAIT_S))
            job = (await http.post("/jobs", json=BODY)).json()
            assert job["waiting_for"] == "worker"
            assert "expected_start_s" not in job
            start_worker()
            waited = await http.get(f"/jobs/{job['id']}?wait={2 * WAIT_S}", timeout=3 * WAIT_S)
            assert waited.json()["status"] == "succeeded"
            assert (await call).status_code == 200
            later = (await http.post("/jobs", json=BODY)).json()
            assert "waiting_for" not in later

            async def none_loads() -> bool:
                return (await http.get("/workers")).json()["loading"] == []

            await eventually(none_loads)
    finally:
        await asyncio.to_thread(api.stop)
