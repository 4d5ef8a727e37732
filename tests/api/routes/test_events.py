"""`GET /jobs/{id}/events`: from any index, on any replica, without a gap or a repeat."""

import asyncio

import pytest
from prometheus_client import Histogram
from redis.exceptions import ConnectionError

from shared.protocol import Delta
from shared.queue.token_log import PAGE, TokenLog
from tests.api.job_events import (
    LAST,
    JobWriter,
    events,
    events_of,
    run_job,
    submit,
    texts,
    until_events_awaited,
    without_replies,
)
from tests.fakes_api import FakeService, fake_service


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.05)


async def test_the_events_of_an_ended_job_start_at_its_first_token(service: FakeService) -> None:
    *deltas, last = await events(service, await run_job(service))
    assert [(d["index"], d["delta"]) for d in deltas] == [(0, " HELLO"), (1, " BIG"), (2, " WORLD")]
    assert (last["index"], last["status"]) == (3, "succeeded")
    assert last["Result"] == "hello big world HELLO BIG WORLD"


@pytest.mark.parametrize("prefer", ["respond-async", "wait=30"])
async def test_every_job_with_a_location_has_events(service: FakeService, prefer: str) -> None:
    response = await service.http.post(
        "/chat", json={"prompt": "hello big world"}, headers={"Prefer": prefer}
    )
    assert texts(await events(service, response.json()["id"])) == [" HELLO", " BIG", " WORLD"]


async def test_events_resume_after_last_event_id(service: FakeService) -> None:
    job_id = await run_job(service)
    assert [e["index"] for e in await events(service, job_id, {LAST: "0"})] == [1, 2, 3]
    assert [e["index"] for e in await events(service, job_id, {LAST: "2"})] == [3]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "", str(2**53)])
async def test_the_error_for_an_invalid_last_event_id_names_it(
    service: FakeService, last: str
) -> None:
    response = await service.http.get(
        f"/jobs/{await run_job(service)}/events", headers={LAST: last}
    )
    assert response.status_code == 422
    assert response.json()["detail"].startswith("Last-Event-ID: ")


async def test_an_unknown_job_has_no_events(service: FakeService) -> None:
    assert (await service.http.get("/jobs/nobody/events")).status_code == 404


async def test_a_job_without_a_log_has_one_event_per_sequence(service: FakeService) -> None:
    job_id = await submit(service, "/chat")
    first, last = await events(service, job_id)
    assert (first["index"], first["sequence"], first["delta"]) == (0, 0, " HELLO BIG WORLD")
    assert (last["index"], last["status"]) == (1, "succeeded")
    response = await service.http.get(f"/jobs/{job_id}/events", headers={LAST: "1"})
    assert response.status_code == 204


async def test_the_events_of_a_queued_job_reach_every_replica_once_it_runs(
    workerless: FakeService,
) -> None:
    job_id = await submit(workerless)
    async with fake_service(server=workerless.server, with_worker=False) as other:
        following = [asyncio.create_task(events(each, job_id)) for each in (workerless, other)]
        for each in (workerless, other):
            await until_events_awaited(each, job_id)
        assert not any(task.done() for task in following)
        workerless.tasks.append(asyncio.create_task(workerless.worker.run()))
        here, there = [await task for task in following]
    assert texts(here) == [" HELLO", " BIG", " WORLD"]
    assert here == there


async def test_a_late_client_gets_past_and_future_tokens(
    workerless: FakeService, writer: JobWriter
) -> None:
    await writer.write("a", "b")
    following = asyncio.create_task(events(workerless, writer.job.id, {LAST: "0"}))
    await until_events_awaited(workerless, writer.job.id)
    await writer.write("c")
    await writer.finish()
    assert [(e["index"], e.get("delta")) for e in await following] == [
        (1, "b"),
        (2, "c"),
        (3, None),
    ]


async def test_a_log_of_several_pages_is_sent_in_full(
    workerless: FakeService, writer: JobWriter
) -> None:
    count = 2 * PAGE + 1
    await writer.write(*map(str, range(count)))
    await writer.finish()
    assert texts(await events(workerless, writer.job.id)) == [str(i) for i in range(count)]


async def test_tokens_that_the_reply_stream_lost_are_read_from_the_log(
    workerless: FakeService, writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 3600)  # the gap alone causes the read
    following = asyncio.create_task(events(workerless, writer.job.id))
    await until_events_awaited(workerless, writer.job.id)
    await writer.write("a")
    async with without_replies(workerless):
        await writer.write("b", "c")
    await writer.write("d")
    await writer.finish()
    assert texts(await following) == ["a", "b", "c", "d"]


async def test_the_terminal_event_follows_all_tokens_though_all_events_were_lost(
    workerless: FakeService, writer: JobWriter
) -> None:
    following = asyncio.create_task(events(workerless, writer.job.id))
    await until_events_awaited(workerless, writer.job.id)
    workerless.services.tasks[0].cancel()  # the reader of replies
    await writer.write("a", "b")
    await writer.finish()
    received = await following
    assert texts(received) == ["a", "b"]
    assert received[-1]["status"] == "succeeded"


async def test_a_replica_whose_watcher_redis_lost_watches_again(
    workerless: FakeService, writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.02)
    record = workerless.keys.record(writer.job.id)
    following = asyncio.create_task(events(workerless, writer.job.id))
    await until_events_awaited(workerless, writer.job.id)
    await workerless.redis.hdel(record, "subscribers")
    replica = workerless.services.redis.replica_id.encode()
    for _ in range(3000):
        if (subscribers := await workerless.redis.hget(record, "subscribers") or b"").split():
            break
        await asyncio.sleep(0.01)
    assert subscribers.split() == [replica]
    await writer.finish()
    assert texts(await following) == []


async def test_a_stream_waits_for_a_log_that_is_unreachable(
    workerless: FakeService, writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await writer.write("a")
    await writer.finish()
    failures, read = [ConnectionError("gone"), OSError()], TokenLog.read

    async def flaky(log: TokenLog, job_id: str, start: int) -> list[Delta]:
        if failures:
            raise failures.pop()
        return await read(log, job_id, start)

    monkeypatch.setattr(TokenLog, "read", flaky)
    assert texts(await events(workerless, writer.job.id)) == ["a"]
    assert not failures


async def test_tokens_after_a_gap_in_the_log_wait_until_the_worker_fills_it(
    workerless: FakeService, writer: JobWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker resends from the end of the log."""
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 3600)
    key = workerless.keys.token_log(writer.job.id)
    following = asyncio.create_task(events(workerless, writer.job.id))
    await until_events_awaited(workerless, writer.job.id)
    await writer.write("a")
    async with without_replies(workerless):
        await writer.write("b")
    held_back, asked, read = asyncio.Event(), asyncio.Event(), TokenLog.read

    async def late(log: TokenLog, job_id: str, start: int) -> list[Delta]:
        asked.set()
        await held_back.wait()
        return await read(log, job_id, start)

    monkeypatch.setattr(TokenLog, "read", late)
    await writer.write("c")
    await asked.wait()  # for the tokens before "c"
    await workerless.redis.ltrim(key, 0, 0)
    held_back.set()
    await until_events_awaited(workerless, writer.job.id)
    await writer.resend_from(1)
    await writer.finish()
    assert texts(await following) == ["a", "b", "c"]


async def test_a_disconnect_from_the_events_leaves_the_job(
    workerless: FakeService, writer: JobWriter
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await workerless.http.get(f"/jobs/{writer.job.id}/events")
    job = (await workerless.http.get(f"/jobs/{writer.job.id}")).json()
    assert job["status"] == "running"
    await writer.finish()


async def test_the_shutdown_event_has_no_id(workerless: FakeService, writer: JobWriter) -> None:
    await writer.write("a")
    following = asyncio.create_task(events(workerless, writer.job.id))
    await until_events_awaited(workerless, writer.job.id)
    workerless.services.stopping.set()
    first, shutdown = await following
    assert (first["index"], "index" in shutdown) == (0, False)
    assert f"/jobs/{writer.job.id}" in shutdown["error"]["message"]


async def test_only_the_submitting_request_observes_token_times(
    service: FakeService,
) -> None:
    metrics = service.services.metrics

    def count(histogram: Histogram) -> float:
        samples = [s for m in histogram.collect() for s in m.samples]
        return next(s.value for s in samples if s.name.endswith("_count"))

    body = {"prompt": "hello big world", "stream": True}
    received = events_of((await service.http.post("/chat", json=body)).text)
    await events(service, received[-1]["id"])
    await run_job(service)
    assert count(metrics.first_token) == 1
    assert count(metrics.inter_token) == len(received) - 2 > 0  # without the terminal event
