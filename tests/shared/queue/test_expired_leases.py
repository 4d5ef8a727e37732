"""Expired leases: when another worker takes the job over, and when an outage was the cause."""

from shared.queue.claims import Claim, Room
from tests.shared.queue.harness import QueueHarness

WIDE = Room(rows=100, tokens=100_000, running=0)
LEASE_MS = 10_000


async def claim(harness: QueueHarness, worker_id: str) -> Claim:
    return await harness.queue.claim(worker_id, WIDE, lease_ms=LEASE_MS)


async def claim_for(harness: QueueHarness, worker_id: str, seconds: float) -> list[str]:
    """Claim once a second, as a worker does; return the ids of the claimed jobs."""
    job_ids = []
    for _ in range(round(seconds)):
        harness.clock.now_s += 1.0
        job_ids += [claimed.job.id for claimed in (await claim(harness, worker_id)).jobs]
    return job_ids


async def leased_job(harness: QueueHarness) -> str:
    job_id = (await harness.submit()).job_id
    assert [claimed.job.id for claimed in (await claim(harness, "owner")).jobs] == [job_id]
    return job_id


async def test_an_expired_lease_is_taken_over_while_workers_claim(harness: QueueHarness) -> None:
    job_id = await leased_job(harness)
    assert await claim_for(harness, "other", 9) == []
    assert await claim_for(harness, "other", 2) == [job_id]


async def test_leases_that_expired_during_an_outage_stay_with_their_workers(
    harness: QueueHarness,
) -> None:
    """No script ran for a minute: Redis was away or frozen, or its clock jumped."""
    job_id = await leased_job(harness)
    harness.clock.now_s += 60.0
    after = await claim(harness, "other")
    assert (after.jobs, after.is_after_outage) == ([], True)
    assert await claim_for(harness, "other", 1) == []
    assert await claim_for(harness, "other", 1) == [job_id]  # its worker did not renew
    assert not (await claim(harness, "other")).is_after_outage


async def test_a_lease_renewed_after_an_outage_stays_valid(harness: QueueHarness) -> None:
    job = await harness.submit()
    [claimed] = (await claim(harness, "owner")).jobs
    harness.clock.now_s += 60.0
    await claim(harness, "other")
    renewal = await harness.queue.renew("owner", {job.job_id: claimed.fence}, lease_ms=LEASE_MS)
    assert renewal.lost == []
    assert await claim_for(harness, "other", 9) == []


async def test_waiting_jobs_are_claimed_right_after_an_outage(harness: QueueHarness) -> None:
    await leased_job(harness)
    harness.clock.now_s += 60.0
    waiting = await harness.submit()
    assert [claimed.job.id for claimed in (await claim(harness, "other")).jobs] == [waiting.job_id]


async def test_the_first_claim_of_a_queue_is_not_after_an_outage(harness: QueueHarness) -> None:
    assert not (await claim(harness, "first")).is_after_outage
