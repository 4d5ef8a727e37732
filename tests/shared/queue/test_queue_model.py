"""Random operations on the queue against a simple model: no job is lost, no job ends twice."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from shared.errors import Conflict, QueueFull
from shared.protocol import JobStatus, decode_events
from shared.queue.backlog import Depth
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.factories import make_job, make_succeeded

T = TypeVar("T")
WORKERS = st.sampled_from(["w1", "w2"])
LONG_MS, EXPIRED_AT_ONCE_MS = 600_000, -600_000
MAX_QUEUED, MAX_QUEUED_TOKENS = 8, 120
LIMITS: dict[str, Any] = {"max_queued": MAX_QUEUED, "max_queued_tokens": MAX_QUEUED_TOKENS}


@dataclass
class ModelJob:
    """Expected state of a job."""

    status: JobStatus = JobStatus.QUEUED
    owner: tuple[str, int] | None = None  # worker and fencing token of the valid lease
    tokens: int = 0
    is_expired: bool = False  # its lease
    is_cancelled: bool = False
    is_watched: bool = True
    retried_as: str | None = None
    num_outcomes: int = 0

    def end(self, status: JobStatus) -> None:
        self.status, self.owner, self.is_expired, self.is_cancelled = status, None, False, False
        self.num_outcomes += 1


class QueueMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        # Each script runs 1 ms after the one before: equal times would make runs differ.
        clock = count(int(time.time()) * 1000)
        ticking = SimpleNamespace(time=lambda: next(clock) / 1000)
        self.clock = patch("fakeredis.commands_mixins.server_mixin.time", ticking)
        self.clock.start()
        self.loop = asyncio.new_event_loop()
        self.redis = FakeAsyncRedis()
        self.keys = Keys()
        self.queue = JobQueue(self.redis, self.keys)
        self.jobs: dict[str, ModelJob] = {}
        self.fencing_tokens: set[tuple[str, int]] = set()

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.loop.close()
        self.clock.stop()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def ids_in(self, status: JobStatus) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.status is status]

    @property
    def waiting_tokens(self) -> int:
        return sum(self.jobs[job_id].tokens for job_id in self.ids_in(JobStatus.QUEUED))

    def is_full(self, tokens: int) -> bool:
        waiting = len(self.ids_in(JobStatus.QUEUED))
        return waiting >= MAX_QUEUED or (
            waiting > 0 and self.waiting_tokens + tokens > MAX_QUEUED_TOKENS
        )

    def owns(self, lease: ClaimedJob) -> bool:
        return self.jobs[lease.job.id].owner == (lease.worker_id, lease.fencing_token)

    @rule(priority=st.integers(-10, 10), tokens=st.integers(1, 30))
    def enqueue(self, priority: int, tokens: int) -> None:
        job = make_job(id=f"job-{len(self.jobs):03}", max_new_tokens=tokens)
        enqueue = self.queue.enqueue(job, reply_to="api-1", priority=priority, **LIMITS)
        if self.is_full(job.cost_tokens):
            with pytest.raises(QueueFull):
                self.do(enqueue)
        else:
            self.do(enqueue)
            self.jobs[job.id] = ModelJob(tokens=job.cost_tokens)

    @rule(
        target=leases,
        worker=WORKERS,
        rows=st.integers(1, 4),
        tokens=st.integers(1, 80),
        running=st.integers(0, 1),
        lease_ms=st.sampled_from([LONG_MS, EXPIRED_AT_ONCE_MS]),
    )
    def claim(self, worker: str, rows: int, tokens: int, running: int, lease_ms: int) -> Any:
        free = FreeCapacity(rows=rows, kv_tokens=tokens, running=running)
        claimed = self.do(self.queue.claim(worker, free, lease_ms=lease_ms)).jobs
        expired = [
            job_id for job_id, job in self.jobs.items() if job.is_expired and not job.is_cancelled
        ]
        for lease in claimed:
            job = self.jobs[lease.job.id]
            assert job.status is JobStatus.QUEUED or job.is_expired
            assert not (job.is_expired and job.is_cancelled)
            assert (lease.job.id, lease.fencing_token) not in self.fencing_tokens
            self.fencing_tokens.add((lease.job.id, lease.fencing_token))
            job.status, job.owner = JobStatus.RUNNING, (worker, lease.fencing_token)
            job.is_expired = lease_ms == EXPIRED_AT_ONCE_MS
        self.record_jobs_that_the_claim_ended()
        costs = [lease.job.cost_tokens for lease in claimed]
        assert len(claimed) <= max(rows, 1)
        assert sum(costs) <= tokens or (running == 0 and len(claimed) == 1)
        overtaking = [lease for lease in claimed if lease.job.id not in expired]
        assert not overtaking or set(expired) <= {lease.job.id for lease in claimed}
        return multiple(*claimed)

    def record_jobs_that_the_claim_ended(self) -> None:
        """Record that a claim ends the cancelled jobs of dead workers."""
        for job_id, job in self.jobs.items():
            if job.is_cancelled and job.is_expired:
                record = self.do(self.queue.page([JobStatus.CANCELLED], limit=100))
                if job_id in [ended.id for ended in record.records]:
                    job.end(JobStatus.CANCELLED)

    @rule(lease=leases)
    def renew(self, lease: ClaimedJob) -> None:
        job_id, job = lease.job.id, self.jobs[lease.job.id]
        renewal = self.do(
            self.queue.renew(lease.worker_id, {job_id: lease.fencing_token}, lease_ms=LONG_MS)
        )
        assert renewal.lost == ([] if self.owns(lease) else [job_id])
        if not renewal.lost:
            assert renewal.cancelled == ([job_id] if job.is_cancelled else [])
            job.is_expired = False

    @rule(lease=consumes(leases))
    def finish(self, lease: ClaimedJob) -> None:
        outcome = make_succeeded(lease.job.id)
        expected = self.owns(lease)
        assert (
            self.do(self.queue.finish(lease, outcome, fencing_token=lease.fencing_token))
            == expected
        )
        if expected:
            self.jobs[lease.job.id].end(JobStatus.SUCCEEDED)

    @rule(lease=leases)
    def release(self, lease: ClaimedJob) -> None:
        released = self.do(self.queue.release(lease.worker_id, {lease.job.id: lease.fencing_token}))
        assert released == self.owns(lease)
        if released:
            job = self.jobs[lease.job.id]
            job.status, job.owner, job.is_expired = JobStatus.QUEUED, None, False
            if job.is_cancelled:
                job.end(JobStatus.CANCELLED)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.jobs:
            return
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        record = self.do(self.queue.cancel(job_id))
        job = self.jobs[job_id]
        if job.status is JobStatus.QUEUED or job.is_expired:
            job.end(JobStatus.CANCELLED)
        elif job.status is JobStatus.RUNNING:
            job.is_cancelled = True
        assert record is not None and record.status is self.jobs[job_id].status

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        if not self.jobs:
            return
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        job = self.jobs[job_id]
        retry = self.queue.retry(job_id, **LIMITS)
        if job.status is not JobStatus.CANCELLED:
            with pytest.raises(Conflict, match=job.status):
                self.do(retry)
        elif job.retried_as is None and self.is_full(job.tokens):
            with pytest.raises(QueueFull):
                self.do(retry)
        else:
            retried = self.do(retry)
            assert retried.replayed == (job.retried_as is not None)
            if job.retried_as is None:
                job.retried_as = retried.job_id
                self.jobs[retried.job_id] = ModelJob(tokens=job.tokens, is_watched=False)
            assert retried.job_id == job.retried_as

    @rule()
    def purge(self) -> None:
        async def purge() -> int:
            return sum([num async for num in self.queue.purge()])

        waiting = self.ids_in(JobStatus.QUEUED)
        assert self.do(purge()) == len(waiting)
        for job_id in waiting:
            self.jobs[job_id].end(JobStatus.CANCELLED)

    @invariant()
    def positions_and_statuses_equal_the_model(self) -> None:
        statuses = [job.status for job in self.jobs.values()]
        waiting = statuses.count(JobStatus.QUEUED)
        running = statuses.count(JobStatus.RUNNING)
        assert self.do(self.queue.depth()) == Depth(waiting, running)
        positions = set()
        for job_id, job in self.jobs.items():
            record = self.do(self.queue.record(job_id))
            assert record is not None and record.status is job.status
            positions.add(record.position)
        assert positions - {None} == set(range(1, waiting + 1))

    @invariant()
    def the_sum_of_waiting_tokens_is_exact(self) -> None:
        tokens = self.do(self.redis.hget(self.keys.backlog, "tokens"))
        assert int(tokens or 0) == self.waiting_tokens

    @invariant()
    def every_job_is_listed_once_under_its_status(self) -> None:
        page = self.do(self.queue.page(JobStatus, limit=100))
        listed = [(record.id, record.status) for record in page.records]
        assert sorted(listed) == sorted((job_id, job.status) for job_id, job in self.jobs.items())

    @invariant()
    def the_watchers_of_a_job_got_one_terminal_event(self) -> None:
        entries = self.do(self.redis.xrange(self.keys.replies("api-1")))
        sent = [event.job_id for _, fields in entries for event in decode_events(fields[b"events"])]
        assert all(job.num_outcomes <= 1 for job in self.jobs.values())
        expected = [id_ for id_, job in self.jobs.items() if job.num_outcomes and job.is_watched]
        assert sorted(sent) == sorted(expected)


TestQueueModel = QueueMachine.TestCase
TestQueueModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
