"""`GET /jobs/{id}/events`: the end of a job, once, and of this life of it."""

import asyncio

import pytest

from api.transcript import MAX_INDEX
from tests.api.followed import LAST, Writer, claimed, ended, events, submit, texts
from tests.fakes_api import FakeService


@pytest.mark.parametrize("last", ["3", "4", str(MAX_INDEX - 1)])
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
    for seen, status in ((1, 200), (2, 200), (last["index"], 204)):
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
    await asyncio.sleep(0.2)
    writer = await claimed(workerless)
    await writer.say("a", "b", "c")
    await writer.finish()
    for told in (await following, await events(workerless, job_id, last)):
        assert texts(told) == ["a", "b", "c"]
        assert (told[-1]["index"], told[-1]["status"]) == (3, "succeeded")
