"""Redis is killed or frozen under load: calls fail soon, and no accepted job is lost."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.integration.load import Load, assert_all_ended_once
from tests.integration.service import ApiChild, Service, WorkerChild
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

LEASE_S = 4  # longer than a busy machine delays a worker

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]


def assert_ended_at_first_attempt(ends: list[dict[str, Any]], workers: list[WorkerChild]) -> None:
    others = [end for end in ends if (end["status"], end["attempts"]) != ("succeeded", 1)]
    assert not others, "\n".join(worker.log_text for worker in workers)


async def test_a_restart_under_load_loses_no_accepted_job(
    service: Service,
    start_api: StartApi,
    start_worker: StartWorker,
    redis_server: RedisServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api, workers = start_api(), [start_worker(lease_s=LEASE_S) for _ in range(2)]
    await service.ready(*workers)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        load = Load(http, new_tokens=100)
        async with load.running():
            await load.wait_for_accepted(20)
            redis_server.kill()
            await load.wait_for_refused(4)
            await asyncio.sleep(LEASE_S + 1)
            redis_server.start()
            back = time.monotonic()
            await load.wait_for_accepted(1)
            recovered_s = time.monotonic() - back
            await load.wait_for_accepted(20)
        ends = await load.ends()
    assert_ended_at_first_attempt(ends, workers)
    assert {refusal.status for refusal in load.refusals} == {503}
    assert all(refusal.retry_after for refusal in load.refusals)
    assert max(refusal.took_s for refusal in load.refusals) < 10  # 2 s on an idle machine
    await assert_all_ended_once(service, load)
    slowest_s = max(refusal.took_s for refusal in load.refusals)
    with capsys.disabled():
        print(f"\nrecovered in {recovered_s:.2f} s; {len(load.accepted)} jobs accepted", end="")
        print(f", {len(load.refusals)} refused, the slowest after {slowest_s:.2f} s")


async def test_workers_keep_their_jobs_in_a_freeze_longer_than_a_lease(
    service: Service, start_api: StartApi, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    """After the freeze, Redis first runs claims that were sent when no lease had expired."""
    api, workers = start_api(), [start_worker(lease_s=LEASE_S, max_rows=8) for _ in range(2)]
    await service.ready(*workers)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        load = Load(http, new_tokens=150)
        async with load.running():
            for _ in range(2):
                await load.wait_for_accepted(10)
                redis_server.freeze()
                await asyncio.sleep(LEASE_S + 2)
                redis_server.thaw()
            await load.wait_for_accepted(10)
        ends = await load.ends()
    assert_ended_at_first_attempt(ends, workers)
    await assert_all_ended_once(service, load)
