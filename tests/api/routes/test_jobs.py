"""`/jobs`: submit, get, wait and cancel, on every replica."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from tests.fakes_api import FakeService, fake_service

RECORD = {
    "id",
    "status",
    "created_at",
    "started_at",
    "finished_at",
    "queue_ms",
    "run_ms",
    "attempts",
    "worker",
    "batch",
}


async def submit(service: FakeService, **fields: Any) -> str:
    response = await service.http.post("/jobs", json={"prompt": "hello"} | fields)
    assert response.status_code == 202
    job_id = response.json()["id"]
    assert response.headers["location"] == f"/jobs/{job_id}"
    return str(job_id)


async def test_a_submitted_job_has_a_position(workerless: FakeService) -> None:
    await submit(workerless)
    second = await submit(workerless)
    job = (await workerless.http.get(f"/jobs/{second}")).json()
    assert set(job) == RECORD | {"position", "waiting_for"}
    assert (job["status"], job["position"], job["waiting_for"]) == ("queued", 2, "worker")
    assert (job["started_at"], job["finished_at"], job["worker"]) == (None, None, None)


async def test_a_higher_priority_runs_first(workerless: FakeService) -> None:
    await submit(workerless)
    urgent = await submit(workerless, priority=10)
    assert (await workerless.http.get(f"/jobs/{urgent}")).json()["position"] == 1


async def test_a_finished_job_shows_its_result_and_times_in_utc(service: FakeService) -> None:
    job_id = await submit(service)
    job = (await service.http.get(f"/jobs/{job_id}", params={"wait": 30})).json()
    assert set(job) == RECORD | {"result"}
    assert (job["status"], job["attempts"], job["worker"]) == ("succeeded", 1, "echo")
    assert job["result"]["Result"] == "hello HELLO"
    assert job["batch"] == {"mean_rows": 1.0, "max_rows": 1}
    times = [datetime.fromisoformat(job[f"{name}_at"]) for name in ("created", "started")]
    assert times == sorted(times)
    assert job["created_at"].endswith("Z")
    assert job["queue_ms"] >= 0


async def test_a_failed_job_shows_its_error(service: FakeService) -> None:
    job_id = await submit(service, prompt="fail")
    job = (await service.http.get(f"/jobs/{job_id}?wait=30")).json()
    assert set(job) == RECORD | {"error"}
    assert job["error"]["message"] == "no room on the device"


async def test_a_wait_that_times_out_shows_the_running_job(service: FakeService) -> None:
    service.worker.paused = True
    job_id = await submit(service)
    response = await service.http.get(f"/jobs/{job_id}", params={"wait": 0.1})
    assert response.status_code == 200
    assert response.json()["status"] in ("queued", "running")


async def test_a_wait_returns_when_the_job_ends(service: FakeService) -> None:
    service.worker.paused = True
    job_id = await submit(service)
    wait = asyncio.create_task(service.http.get(f"/jobs/{job_id}", params={"wait": 3600}))
    await service.until(lambda: service.worker.seen)
    service.worker.paused = False
    async with asyncio.timeout(30):
        assert (await wait).json()["status"] == "succeeded"


async def test_every_replica_shows_every_job(service: FakeService) -> None:
    service.worker.paused = True
    job_id = await submit(service)
    async with fake_service(server=service.server, with_worker=False) as other:
        wait = asyncio.create_task(other.http.get(f"/jobs/{job_id}", params={"wait": 3600}))
        await service.until(lambda: service.worker.seen)
        service.worker.paused = False
        async with asyncio.timeout(30):
            assert (await wait).json()["result"]["Result"] == "hello HELLO"


async def test_cancelling_a_queued_job_removes_it_from_the_queue(workerless: FakeService) -> None:
    job_id = await submit(workerless)
    response = await workerless.http.delete(f"/jobs/{job_id}")
    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"
    assert await workerless.num_queued() == 0


async def test_cancelling_a_running_job_stops_it(service: FakeService) -> None:
    service.worker.paused = True
    job_id = await submit(service)
    await service.until(lambda: service.worker.seen)
    assert (await service.http.delete(f"/jobs/{job_id}")).status_code == 200
    job = (await service.http.get(f"/jobs/{job_id}", params={"wait": 30})).json()
    assert job["status"] == "cancelled"
    assert service.worker.stopped == [job_id]


async def test_cancelling_a_finished_job_leaves_it_as_it_is(service: FakeService) -> None:
    job_id = await submit(service)
    await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    response = await service.http.delete(f"/jobs/{job_id}")
    assert response.status_code == 200
    assert response.json()["status"] == "succeeded"


async def test_a_waiting_request_gets_the_cancellation_of_its_job(service: FakeService) -> None:
    service.worker.paused = True
    call = asyncio.create_task(service.http.post("/chat", json={"prompt": "hello"}))
    await service.until(lambda: service.worker.seen)
    await service.http.delete(f"/jobs/{service.worker.seen[0].id}")
    response = await call
    assert response.status_code == 499
    assert response.json()["id"] == service.worker.seen[0].id


async def test_submitting_twice_with_a_key_returns_the_first_job(
    service: FakeService,
) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await service.http.post("/jobs", json={"prompt": "a"}, headers=headers)
    job_id = first.json()["id"]
    await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    again = await service.http.post("/jobs", json={"prompt": "a"}, headers=headers)
    assert again.status_code == 202
    assert (again.json()["id"], again.json()["status"]) == (job_id, "succeeded")


async def test_a_queued_job_expires_at_its_deadline(
    workerless: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.05)
    job_id = await submit(workerless, deadline_s=0.05)
    job = (await workerless.http.get(f"/jobs/{job_id}", params={"wait": 30})).json()
    assert job["status"] == "expired"
    assert "deadline" in job["error"]["message"]
    assert await workerless.num_queued() == 0


async def test_a_waiting_request_gets_504_at_the_deadline_of_a_queued_job(
    workerless: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 3600)
    async with asyncio.timeout(30):
        response = await workerless.http.post("/chat", json={"prompt": "hello", "deadline_s": 0.05})
    assert response.status_code == 504
    assert "deadline" in response.json()["detail"]
    assert await workerless.num_queued() == 0


async def test_the_job_has_the_deadline_and_the_ttl_of_the_request(service: FakeService) -> None:
    job_id = await submit(service, deadline_s=60, ttl_s=5)
    await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    job = service.worker.seen[0]
    assert (job.deadline_s, job.ttl_s) == (60, 5)
    ttl_ms = await service.redis.pttl(service.keys.arq_result(job_id))
    assert 0 < ttl_ms <= 5000


async def test_the_trail_of_a_job_has_its_events_with_times_and_workers(
    service: FakeService,
) -> None:
    job_id = (await service.http.post("/chat", json={"prompt": "hello"})).json()["id"]
    job = (await service.http.get(f"/jobs/{job_id}")).json()
    trail = (await service.http.get(f"/jobs/{job_id}/trail")).json()
    assert trail["id"] == job_id
    queued, claimed, end = trail["events"]
    assert queued == {"at": job["created_at"], "event": "queued", "attempts": 0}
    assert (claimed["event"], claimed["worker"]) == ("claimed", "echo")
    assert (end["event"], end["at"]) == ("succeeded", job["finished_at"])
    assert len(end["replicas"]) == 1


async def test_an_unknown_job_has_no_trail(service: FakeService) -> None:
    response = await service.http.get("/jobs/unknown/trail")
    assert response.status_code == 404
    assert "no job 'unknown'" in response.json()["detail"]
