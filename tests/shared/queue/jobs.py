"""Steps of a job from enqueue to outcome, for several tests of the queue."""

from redis.asyncio import Redis

from shared.protocol import ChatJob, Failed, JobError, JobStatus
from shared.queue.claims import Claim, ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.factories import make_job, make_succeeded

LEASE_MS = 60_000
EXPIRED_AT_ONCE_MS = -1000  # the lease ended a second ago
WIDE = FreeCapacity(rows=100, kv_tokens=100_000, running=0)


async def enqueue(queue: JobQueue, job: ChatJob | None = None, priority: int = 0) -> ChatJob:
    job = job or make_job()
    await queue.enqueue(job, reply_to="api-1", priority=priority, max_queued=1000)
    return job


async def claim(
    queue: JobQueue, worker: str = "w1", free: FreeCapacity = WIDE, ms: int = LEASE_MS
) -> Claim:
    return await queue.claim(worker, free, lease_ms=ms)


async def claim_one(queue: JobQueue, worker: str = "w1", ms: int = LEASE_MS) -> ClaimedJob:
    claimed = await queue.claim(
        worker, FreeCapacity(rows=1, kv_tokens=1000, running=0), lease_ms=ms
    )
    assert len(claimed.jobs) == 1
    return claimed.jobs[0]


async def finish(queue: JobQueue, claimed: ClaimedJob) -> bool:
    return await queue.finish(
        claimed, make_succeeded(claimed.job.id), fencing_token=claimed.fencing_token
    )


def ids(claimed: Claim) -> list[str]:
    return [job.job.id for job in claimed.jobs]


def failed(job_id: str) -> Failed:
    error = JobError(message="no room on the device", status_code=500)
    return Failed(job_id=job_id, attempt=1, status=JobStatus.FAILED, error=error)


async def start_run(redis: Redis, keys: Keys, job: ChatJob) -> None:
    """Mark the run as started, twice, as when the reply to the first command is lost."""
    for _ in range(2):
        await redis.incr(keys.arq_retry(job.id))


async def enqueue_poison(queue: JobQueue, redis: Redis, keys: Keys, *, deaths: int) -> ChatJob:
    """Enqueue a job and let this number of workers die while they run it."""
    job = await enqueue(queue)
    for death in range(deaths):
        claimed = await claim_one(queue, f"dead-{death}", ms=EXPIRED_AT_ONCE_MS)
        assert (claimed.job, claimed.attempts) == (job, death)
        await start_run(redis, keys, job)
    return job
