"""A worker restarts with another model, with the same Redis and api."""

import asyncio
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.api.api_process import ApiProcess
from tests.integration.service import WAIT_S, WorkerChild
from tests.redis_server import RedisServer
from worker.model.checkpoint.tiny import bundled_checkpoint

pytestmark = pytest.mark.integration

SMALL = 64  # tokens of context


def small_model(folder: Path) -> Path:
    shutil.copytree(bundled_checkpoint(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": SMALL}))
    return folder


async def healthy(http: httpx.AsyncClient, worker: WorkerChild) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await http.get("/health")).status_code != 200:
            assert worker.process.poll() is None, worker.log_text


async def test_the_current_model_is_used_from_the_first_health_check(
    redis_server: RedisServer, start_worker: Callable[..., WorkerChild], tmp_path: Path
) -> None:
    body = {"prompt": "Once", "generate_kwargs": {"max_new_tokens": SMALL}}
    small = str(small_model(tmp_path / "small")) + "/"
    api = await asyncio.to_thread(ApiProcess, redis_server.url)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}") as http:
            for model, name, status in ((small, "small", 400), ("tiny", "tiny", 202)):
                worker = start_worker(model=model)
                await healthy(http, worker)
                answer = await http.post("/jobs", json=body)
                assert answer.status_code == status, answer.text
                assert (await http.get("/workers")).json()["workers"][0]["model"] == name
                worker.process.send_signal(signal.SIGTERM)
                assert await worker.exit_code() == 0, worker.log_text
    finally:
        await asyncio.to_thread(api.stop)
