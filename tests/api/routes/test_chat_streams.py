"""`POST /chat` with a stream, and disconnects with and without a stream."""

import asyncio
from typing import Any

import pytest

from tests.api.job_events import events_of
from tests.fakes_api import FakeService, abandoned_call


async def test_a_shutdown_ends_a_stream_with_an_event_that_names_its_job(
    service: FakeService,
) -> None:
    service.worker.paused = True
    body = {"prompt": "hello", "stream": True}
    call = asyncio.create_task(service.http.post("/chat", json=body))
    await service.until(lambda: service.worker.seen)
    service.services.stopping.set()
    (last,) = events_of((await call).text)
    job_id = service.worker.seen[0].id
    assert (last["id"], last["status"]) == (job_id, "running")
    assert "index" not in last  # a client that resumes with an id would miss a token
    assert f"/jobs/{job_id}" in last["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "headers"),
    [({"stream": True}, {}), ({}, {"Accept": "text/event-stream"})],
)
async def test_a_stream_has_each_token_once_and_then_the_result(
    service: FakeService, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    body = {"prompt": "hello big world"} | fields
    response = await service.http.post("/chat", json=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, last = events_of(response.text)
    assert [event["index"] for event in deltas] == [0, 1, 2]
    assert "".join(event["delta"] for event in deltas) == " HELLO BIG WORLD"
    assert [event["token_ids"] for event in deltas] == [[0], [1], [2]]
    assert {event["sequence"] for event in deltas} == {0}
    assert (last["index"], last["status"]) == (3, "succeeded")
    assert last["Result"] == "hello big world HELLO BIG WORLD"


async def test_a_stream_of_a_failed_job_ends_with_its_error(service: FakeService) -> None:
    response = await service.http.post("/chat", json={"prompt": "fail", "stream": True})
    (last,) = events_of(response.text)
    assert last["status"] == "failed"
    assert last["error"]["message"] == "no room on the device"


async def test_an_invalid_streamed_request_gets_a_json_error(service: FakeService) -> None:
    response = await service.http.post("/chat", json={"prompt": "", "stream": True})
    assert response.status_code == 400


async def test_a_stream_without_tokens_gets_keep_alive_comments(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.sse.KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.01)
    service.worker.paused = True
    body = {"prompt": "hello", "stream": True}
    call = asyncio.create_task(service.http.post("/chat", json=body))
    await service.until(lambda: service.worker.seen)
    await asyncio.sleep(0.1)
    service.worker.paused = False
    text = (await call).text
    assert text.startswith(": keep-alive\n\n")
    assert events_of(text)[-1]["status"] == "succeeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_cancels_the_running_job(service: FakeService, stream: bool) -> None:
    service.worker.paused = True
    leave = asyncio.Event()
    call = asyncio.create_task(
        abandoned_call(service.asgi, {"prompt": "hello", "stream": stream}, leave)
    )
    await service.until(lambda: service.worker.seen)
    leave.set()
    await call
    await service.until(lambda: service.worker.stopped)
    assert service.worker.stopped == [service.worker.seen[0].id]


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "wait=30"}])
async def test_a_disconnect_cancels_the_queued_job(
    workerless: FakeService, prefer: dict[str, str]
) -> None:
    leave = asyncio.Event()
    call = asyncio.create_task(abandoned_call(workerless.asgi, {"prompt": "hello"}, leave, prefer))
    await workerless.until_queued(1)
    leave.set()
    await call
    await workerless.until_queued(0)
