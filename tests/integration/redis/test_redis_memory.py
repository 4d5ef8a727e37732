"""Redis reaches `maxmemory`: the api refuses jobs, and workers finish accepted jobs."""

from collections.abc import Callable

import httpx
import pytest

from tests.integration.service import ApiChild, Service, WorkerChild

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]

JOB = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": 8}}
WAIT_S = 60.0


async def test_a_full_redis_refuses_jobs_and_keeps_accepted_jobs(
    service: Service, start_api: StartApi, start_worker: StartWorker
) -> None:
    api = start_api()
    await api.ready("/readyz")
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=WAIT_S) as http:
        jobs = [(await http.post("/jobs", json=JOB)).json()["id"] for _ in range(8)]
        await service.redis.config_set("maxmemory", 1)
        refused = await http.post("/jobs", json=JOB)
        assert refused.status_code == 503
        assert "command not allowed when used memory" in refused.json()["detail"]
        assert "Retry-After" in refused.headers
        worker = start_worker()
        await service.ready(worker)
        for job_id in jobs:
            record = (await http.get(f"/jobs/{job_id}?wait=60")).json()
            assert record["status"] == "succeeded"
            told = (await http.get(f"/jobs/{job_id}/events")).text
            assert told.count("\ndata:") == record["result"]["usage"]["completion_tokens"] + 1
        await service.redis.config_set("maxmemory", 0)
        assert (await http.post("/chat", json=JOB)).status_code == 200
