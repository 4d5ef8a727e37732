"""Events `status`: the place of a queued job, in streams of `/chat` and `/jobs/{id}/events`."""

import asyncio

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from shared.registry.worker_registry import LoadingWorker, Registry
from tests.api.job_events import events_of, submit, until_events_awaited
from tests.fakes_api import FakeService

PROMPT = {"prompt": "hello big world"}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.05)


async def test_a_stream_has_the_place_of_the_job_while_it_waits(workerless: FakeService) -> None:
    first = await submit(workerless)
    body = PROMPT | {"stream": True}
    streaming = asyncio.create_task(workerless.http.post("/chat", json=body))
    await workerless.until_queued(2)
    newest, _ = (await workerless.http.get("/jobs")).json()["jobs"]
    await until_events_awaited(workerless, newest["id"])
    await workerless.http.delete(f"/jobs/{first}")
    await asyncio.sleep(0.3)  # the place is read again meanwhile
    await workerless.start_worker()
    text = (await streaming).text
    waiting = {"waiting_for": "worker"}
    assert events_of(text, "status")[:2] == [{"position": 2} | waiting, {"position": 1} | waiting]
    assert text.startswith("event: status\n")
    assert "id:" not in text.partition("\n\n")[0]
    *deltas, end = events_of(text)
    assert [delta["index"] for delta in deltas] == [0, 1, 2]
    assert end["status"] == "succeeded"


async def test_a_job_that_starts_at_once_has_no_status(service: FakeService) -> None:
    response = await service.http.post("/chat", json=PROMPT | {"stream": True})
    assert events_of(response.text, "status") == []
    assert events_of(response.text)[-1]["status"] == "succeeded"


async def test_a_stream_shows_how_far_a_worker_has_loaded(
    workerless: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = workerless.services.redis.models[0].registry
    read: list[list[LoadingWorker]] = []
    loading = Registry.loading

    async def record(registry: Registry) -> list[LoadingWorker]:
        read.append(await loading(registry))
        return read[-1]

    monkeypatch.setattr(Registry, "loading", record)
    begun = LoadingWorker(id="w1", model="m", started_ms=0)
    half = replace(begun, read_bytes=50, total_bytes=100, eta_s=2.5)
    job_id = await submit(workerless)
    await registry.report_loading(begun)
    following = asyncio.create_task(workerless.http.get(f"/jobs/{job_id}/events"))
    await workerless.until(lambda: [begun] in read)
    await registry.report_loading(half)
    await workerless.until(lambda: read.count([half]) > 1)  # the first one is sent by then
    listed = (await workerless.http.get("/workers")).json()
    assert listed == {"workers": [], "loading": [to_builtins(half)]}
    await workerless.http.delete(f"/jobs/{job_id}")
    shown = [one.get("loading") for one in events_of((await following).text, "status")]
    assert shown == [
        {"worker": "w1", "progress": 0.0},
        {"worker": "w1", "progress": 0.5, "eta_s": 2.5},
    ]


async def test_an_unchanged_place_is_sent_once(workerless: FakeService) -> None:
    job_id = await submit(workerless)
    following = asyncio.create_task(workerless.http.get(f"/jobs/{job_id}/events"))
    await until_events_awaited(workerless, job_id)
    await asyncio.sleep(0.3)
    await workerless.http.delete(f"/jobs/{job_id}")
    text = (await following).text
    assert events_of(text, "status") == [{"position": 1, "waiting_for": "worker"}]
    assert [event["status"] for event in events_of(text)] == ["cancelled"]
