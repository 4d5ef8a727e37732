"""The job listing: newest first, stable while jobs change, bounded in memory and cost."""

import pytest
from redis.asyncio import Redis

from shared.protocol import ChatJob, JobStatus
from shared.queue.claims import FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.listing import Cursor, JobPage
from tests.factories import make_job, make_succeeded

WIDE = FreeCapacity(rows=1000, kv_tokens=1_000_000, running=0)


async def enqueue(queue: JobQueue, **fields: object) -> ChatJob:
    job = make_job(**fields)
    await queue.enqueue(job, reply_to=None, max_queued=1000)
    return job


async def run(queue: JobQueue, *, num: int) -> None:
    """Let the first `num` waiting jobs succeed."""
    free = FreeCapacity(rows=num, kv_tokens=1_000_000, running=1)
    for claimed in (await queue.claim("w1", free, lease_ms=60_000)).jobs:
        await queue.finish(
            claimed, make_succeeded(claimed.job.id), fencing_token=claimed.fencing_token
        )


def ids(page: JobPage) -> list[str]:
    return [record.id for record in page.records]


async def newest_first(queue: JobQueue, jobs: list[ChatJob]) -> list[str]:
    """Order jobs by creation in ms, then by id."""
    keys = []
    for job in jobs:
        record = await queue.record(job.id)
        assert record is not None
        keys.append((record.created_ms, job.id))
    return [id_ for _, id_ in sorted(keys, reverse=True)]


async def pages(queue: JobQueue, *statuses: JobStatus, limit: int) -> list[JobPage]:
    found: list[JobPage] = []
    while not found or found[-1].cursor is not None:
        after = found[-1].cursor if found else None
        found.append(await queue.page(statuses or JobStatus, limit=limit, after=after))
        assert len(found) < 100
    return found


async def test_an_empty_listing_has_no_jobs_and_no_cursor(queue: JobQueue) -> None:
    assert await queue.page(JobStatus, limit=5) == JobPage([], None)


async def test_pages_show_the_newest_jobs_first(queue: JobQueue) -> None:
    jobs = [await enqueue(queue) for _ in range(25)]
    await run(queue, num=7)
    await queue.cancel(jobs[20].id)
    expected = await newest_first(queue, jobs)
    found = await pages(queue, limit=10)
    assert [len(page.records) for page in found] == [10, 10, 5]
    assert [id_ for page in found for id_ in ids(page)] == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 24, 25])
async def test_pages_of_any_size_show_each_job_once(queue: JobQueue, limit: int) -> None:
    jobs = [await enqueue(queue) for _ in range(25)]
    found = await pages(queue, limit=limit)
    assert [id_ for page in found for id_ in ids(page)] == await newest_first(queue, jobs)


async def test_a_listing_by_status_shows_only_that_status(queue: JobQueue) -> None:
    jobs = [await enqueue(queue) for _ in range(6)]
    await run(queue, num=2)
    await queue.cancel(jobs[2].id)
    await queue.claim("w2", FreeCapacity(rows=1, kv_tokens=1000, running=1), lease_ms=60_000)
    expected = {
        JobStatus.SUCCEEDED: jobs[:2],
        JobStatus.CANCELLED: jobs[2:3],
        JobStatus.RUNNING: jobs[3:4],
        JobStatus.QUEUED: jobs[4:],
        JobStatus.FAILED: [],
        JobStatus.EXPIRED: [],
    }
    for status, there in expected.items():
        page = await queue.page([status], limit=10)
        assert ids(page) == await newest_first(queue, there)
        assert all(record.status is status for record in page.records)


async def test_a_listing_shows_everything_but_the_result(queue: JobQueue) -> None:
    jobs = [await enqueue(queue) for _ in range(3)]
    await run(queue, num=1)
    await queue.cancel(jobs[1].id)
    by_id = {record.id: record for record in (await queue.page(JobStatus, limit=9)).records}
    done, cancelled, waiting = (by_id[job.id] for job in jobs)
    assert (done.status, done.result, done.attempts) == (JobStatus.SUCCEEDED, None, 1)
    assert done.started_ms is not None and done.finished_ms is not None
    assert cancelled.error is not None and "cancelled" in cancelled.error.message
    assert waiting.position == 1


async def test_a_job_is_shown_once_while_other_jobs_change(
    queue: JobQueue,
) -> None:
    jobs = [await enqueue(queue) for _ in range(12)]
    await queue.cancel(jobs[0].id)
    expected = await newest_first(queue, jobs)
    found, cursor = [], None
    while True:
        page = await queue.page(JobStatus, limit=2, after=cursor)
        found += ids(page)
        if page.cursor is None:
            break
        cursor = page.cursor
        await enqueue(queue)  # newer: on no later page
        await run(queue, num=1)
        await queue.retry(jobs[0].id, max_queued=1000)  # a new job as well
    assert found == expected


async def test_jobs_created_in_the_same_ms_are_shown_once(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    jobs = [await enqueue(queue) for _ in range(9)]
    await redis.zadd(keys.job_index, {job.id: 1000 for job in jobs})
    found = [id_ for page in await pages(queue, limit=2) for id_ in ids(page)]
    assert found == sorted((job.id for job in jobs), reverse=True)


async def test_expired_jobs_leave_the_index(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    jobs = [await enqueue(queue) for _ in range(4)]
    await run(queue, num=3)
    for job in jobs[:2]:
        await redis.delete(keys.arq_result(job.id))
    found = [id_ for page in await pages(queue, limit=2) for id_ in ids(page)]
    assert set(found) == {job.id for job in jobs[2:]}
    assert await redis.zcard(keys.job_index) == 2


async def test_only_the_latest_finished_jobs_of_a_status_are_listed(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.queue.keys.LISTED_MAX", 3)
    queue = JobQueue(redis, keys)
    jobs = [await enqueue(queue) for _ in range(10)]
    await run(queue, num=5)
    await queue.cancel(jobs[5].id)
    succeeded = await queue.page([JobStatus.SUCCEEDED], limit=10)
    assert len(succeeded.records) == 3
    assert len((await queue.page([JobStatus.QUEUED], limit=10)).records) == 4
    assert len((await queue.page([JobStatus.CANCELLED], limit=10)).records) == 1


async def test_a_cursor_after_all_jobs_starts_with_the_newest(queue: JobQueue) -> None:
    job = await enqueue(queue)
    page = await queue.page(JobStatus, limit=5, after=Cursor(9_999_999_999_999, "z"))
    assert ids(page) == [job.id]


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "-a", "1-", "a-b", "1-\N{BULLET}", "1" * 14 + "-a"),
        *("1-a\n", "\N{ARABIC-INDIC DIGIT ONE}-a", "\U00011f50-a"),
    ],
)
def test_a_malformed_cursor_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        Cursor.parse(text)


def test_a_cursor_is_parsed_from_its_text() -> None:
    cursor = Cursor(1_800_000_000_000, make_job().id)
    assert Cursor.parse(str(cursor)) == cursor
