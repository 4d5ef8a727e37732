"""`GET /jobs/{id}/events`: the end of a job, once, and of this life of it."""

import asyncio

import pytest
from redis.exceptions import ConnectionError

from api.routes.events import MAX_EVENT_ID
from shared.protocol import JobRecord
from tests.api.followed import (
    LAST,
    Writer,
    claimed,
    deaf,
    ended,
    events,
    lagging,
    submit,
    texts,
    waits_for_events,
)
from tests.fakes_api import FakeService


@pytest.mark.parametrize("last", ["3", "4", str(MAX_EVENT_ID)])
async def test_nothing_follows_the_end(service: FakeService, last: str) -> None:
    """204 tells an EventSource to come back no more."""
    job_id = await ended(service)
    response = await service.http.get(f"/jobs/{job_id}/events", headers={LAST: last})
    assert (response.status_code, response.text) == (204, "")


async def test_nothing_follows_the_end_of_a_failed_job(
    workerless: FakeService, writer: Writer
) -> None:
    await writer.say("a", "b")
    await writer.fail()
    *deltas, last = await events(workerless, writer.job.id)
    assert texts(deltas) == ["a", "b"]
    assert (last["status"], last["error"]["message"]) == ("failed", "no room")
    path = f"/jobs/{writer.job.id}/events"
    assert last["index"] == 2
    for seen, status in ((1, 200), (2, 204), (3, 204)):
        response = await workerless.http.get(path, headers={LAST: str(seen)})
        assert response.status_code == status


async def test_the_end_of_an_earlier_life_hides_nothing_of_a_job_that_is_retried(
    workerless: FakeService,
) -> None:
    job_id = await submit(workerless)
    await workerless.http.delete(f"/jobs/{job_id}")
    [end] = await events(workerless, job_id)
    last = {LAST: str(end["index"])}
    await workerless.http.post(f"/jobs/{job_id}/retry")
    following = asyncio.create_task(events(workerless, job_id, last))
    await waits_for_events(workerless, job_id)
    writer = await claimed(workerless)
    await writer.say("a", "b", "c")
    await writer.finish()
    for told in (await following, await events(workerless, job_id, last)):
        assert texts(told) == ["a", "b", "c"]
        assert [event["index"] for event in told] == [1, 2, 3, 4]
        assert told[-1]["status"] == "succeeded"
    assert texts(await events(workerless, job_id, {LAST: "2"})) == ["c"]
    response = await workerless.http.get(f"/jobs/{job_id}/events", headers={LAST: "4"})
    assert response.status_code == 204


async def test_ids_count_on_over_all_lives(workerless: FakeService, writer: Writer) -> None:
    path = f"/jobs/{writer.job.id}"
    await writer.say("a", "b")
    await writer.fail()
    await workerless.http.post(f"{path}/retry")
    writer = await claimed(workerless)
    await writer.say("c")
    await writer.fail()
    await workerless.http.post(f"{path}/retry")
    writer = await claimed(workerless)
    await writer.say("d")
    await writer.finish()
    for last in ({}, {LAST: "0"}, {LAST: "2"}, {LAST: "4"}):
        told = await events(workerless, writer.job.id, last)
        assert texts(told) == ["d"]
        assert [event["index"] for event in told] == [5, 6]


async def test_who_follows_an_earlier_life_is_told_its_end_though_a_later_one_runs(
    workerless: FakeService, writer: Writer
) -> None:
    following = asyncio.create_task(events(workerless, writer.job.id))
    await writer.say("a")
    await waits_for_events(workerless, writer.job.id)
    async with lagging(workerless):
        await writer.fail()
        await workerless.http.post(f"/jobs/{writer.job.id}/retry")
    told = await following
    assert texts(told) == ["a"]
    assert (told[-1]["index"], told[-1]["status"]) == (1, "failed")


async def test_the_end_of_an_earlier_life_that_comes_late_ends_no_stream(
    workerless: FakeService,
) -> None:
    job_id = await submit(workerless)
    await workerless.http.get(f"/jobs/{job_id}", params={"wait": 0.01})  # its end is to come here
    async with lagging(workerless):
        await workerless.http.delete(f"/jobs/{job_id}")
        await workerless.http.post(f"/jobs/{job_id}/retry")
        following = asyncio.create_task(events(workerless, job_id))
        await waits_for_events(workerless, job_id)
    writer = await claimed(workerless)
    await writer.say("a")
    await writer.finish()
    told = await following
    assert texts(told) == ["a"]
    assert told[-1]["status"] == "succeeded"


async def test_tokens_of_an_earlier_life_that_come_late_are_not_told(
    workerless: FakeService, writer: Writer
) -> None:
    path = f"/jobs/{writer.job.id}"
    await workerless.http.get(path, params={"wait": 0.01})  # its tokens are to come here
    async with lagging(workerless):
        await writer.say("a", "b")
        await writer.fail()
        await workerless.http.post(f"{path}/retry")
        following = asyncio.create_task(events(workerless, writer.job.id))
        await waits_for_events(workerless, writer.job.id)
    writer = await claimed(workerless)
    await writer.say("c")
    await writer.finish()
    assert texts(await following) == ["c"]


async def test_who_missed_the_end_of_an_earlier_life_is_not_told_the_next_one(
    workerless: FakeService, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.delta_stream.QUIET_S", 3600)  # by its tokens, not by looking
    path = f"/jobs/{writer.job.id}"
    following = asyncio.create_task(events(workerless, writer.job.id))
    await writer.say("a")
    await waits_for_events(workerless, writer.job.id)
    async with deaf(workerless):
        await writer.fail()
    await workerless.http.post(f"{path}/retry")
    await workerless.http.get(path, params={"wait": 0.01})
    await (await claimed(workerless)).say("b", "c")
    told = await following
    assert texts(told) == ["a"]
    assert (told[-1]["index"], told[-1]["status"]) == (1, "expired")
    assert "it was retried" in told[-1]["error"]["message"]


async def test_a_failure_whose_record_is_gone_is_told_as_it_was_heard(
    workerless: FakeService, writer: Writer
) -> None:
    following = asyncio.create_task(events(workerless, writer.job.id))
    await waits_for_events(workerless, writer.job.id)
    async with lagging(workerless):
        await writer.fail()
        await workerless.redis.delete(workerless.keys.record(writer.job.id))
    [end] = await following
    assert (end["status"], end["error"]["message"]) == ("failed", "no room")


@pytest.mark.parametrize("is_retried", [False, True])
async def test_a_failure_is_told_once_redis_can_say_that_it_holds(
    workerless: FakeService, writer: Writer, monkeypatch: pytest.MonkeyPatch, is_retried: bool
) -> None:
    following = asyncio.create_task(events(workerless, writer.job.id))
    await waits_for_events(workerless, writer.job.id)
    queue = workerless.services.backend.queue
    failures, watch = [ConnectionError("gone"), OSError()], queue.watch

    async def flaky(job_id: str, replica_id: str) -> JobRecord | None:
        if failures:
            raise failures.pop()
        return await watch(job_id, replica_id)

    monkeypatch.setattr(queue, "watch", flaky)
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.05)
    async with lagging(workerless):
        await writer.fail()
        if is_retried:
            await workerless.http.post(f"/jobs/{writer.job.id}/retry")
    [end] = await following
    assert (end["status"], end["error"]["message"]) == ("failed", "no room")
    assert not failures
