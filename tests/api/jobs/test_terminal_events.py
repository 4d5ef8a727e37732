"""`GET /jobs/{id}/events`: one terminal event, and nothing after it."""

import asyncio

import pytest

from api.routes.events import MAX_EVENT_ID
from tests.api.job_events import (
    LAST,
    JobWriter,
    events,
    run_job,
    submit,
    texts,
    until_events_awaited,
    without_replies,
)
from tests.fakes_api import FakeService


@pytest.mark.parametrize("last", ["3", "4", str(MAX_EVENT_ID)])
async def test_nothing_follows_the_terminal_event(service: FakeService, last: str) -> None:
    """204 makes an EventSource stop reconnecting."""
    job_id = await run_job(service)
    response = await service.http.get(f"/jobs/{job_id}/events", headers={LAST: last})
    assert (response.status_code, response.text) == (204, "")


async def test_nothing_follows_the_terminal_event_of_a_failed_job(
    workerless: FakeService, writer: JobWriter
) -> None:
    await writer.write("a", "b")
    await writer.fail()
    *deltas, last = await events(workerless, writer.job.id)
    assert texts(deltas) == ["a", "b"]
    assert (last["status"], last["error"]["message"]) == ("failed", "no room")
    path = f"/jobs/{writer.job.id}/events"
    assert last["index"] == 2
    for seen, status in ((1, 200), (2, 204), (3, 204)):
        response = await workerless.http.get(path, headers={LAST: str(seen)})
        assert response.status_code == status


async def test_a_job_cancelled_before_its_first_token_has_one_event(
    workerless: FakeService,
) -> None:
    job_id = await submit(workerless)
    await workerless.http.delete(f"/jobs/{job_id}")
    [end] = await events(workerless, job_id)
    assert (end["index"], end["status"]) == (0, "cancelled")
    response = await workerless.http.get(f"/jobs/{job_id}/events", headers={LAST: "0"})
    assert response.status_code == 204


async def test_a_terminal_event_is_sent_though_redis_lost_the_job(
    workerless: FakeService, writer: JobWriter
) -> None:
    following = asyncio.create_task(events(workerless, writer.job.id))
    await until_events_awaited(workerless, writer.job.id)
    await writer.fail()
    await workerless.redis.delete(workerless.keys.record(writer.job.id))
    [end] = await following
    assert (end["status"], end["error"]["message"]) == ("failed", "no room")


async def test_a_lost_job_ends_its_streams(
    workerless: FakeService, writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.05)
    following = asyncio.create_task(events(workerless, writer.job.id))
    await writer.write("a")
    await until_events_awaited(workerless, writer.job.id)
    async with without_replies(workerless):
        await writer.fail()
        await workerless.redis.delete(workerless.keys.record(writer.job.id))
    first, end = await following
    assert (first["delta"], end["index"], end["status"]) == ("a", 1, "expired")
    assert "no longer has the job" in end["error"]["message"]
