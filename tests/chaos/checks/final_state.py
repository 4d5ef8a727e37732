"""Check what remains in Redis and in the processes after the last call of a run."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from shared.protocol import JobStatus, WorkerInfo
from tests.chaos.checks.guarantees import Violation
from tests.chaos.harness.call_log import CallLog, RunLog, TransportError
from tests.chaos.harness.cluster import Cluster
from tests.chaos.harness.fault_timeline import FaultTimeline
from tests.chaos.harness.takeover import read_fields
from tests.chaos.scenarios.call_plans import CallerAction, call_number

IDLE_TIMEOUT_S = 60.0  # from the last call until no job waits or runs
CANCELLATION_S = 5.0  # from a disconnect to the end of its job, on a slow machine
NEVER_RAN = (JobStatus.CANCELLED, JobStatus.EXPIRED)  # cancelled, or accepted too late
SPARE = 16  # connections that do not depend on the load; a leak is one per call
EXPIRY_TOLERANCE_S = 1.0  # a job may expire this much before its deadline


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Record of one job in Redis."""

    job_id: str
    status: JobStatus
    call_number: int | None  # None: a tombstone, which keeps a late enqueue from being accepted
    created_ms: int
    finished_ms: int | None


@dataclass(frozen=True, slots=True)
class Footprint:
    """File descriptors and connections of the processes."""

    num_fds: dict[str, int]  # by process
    num_connections: int


async def footprint(cluster: Cluster) -> Footprint:
    clients = await cluster.redis.client_list()
    fds = {process.name: process.num_fds for process in cluster.processes}
    return Footprint(fds, len(clients))


class FinalState:
    """Checks of a cluster after a run."""

    def __init__(
        self, cluster: Cluster, run_log: RunLog, timeline: FaultTimeline, concurrency: int
    ) -> None:
        self._cluster = cluster
        self._concurrency = concurrency
        self._run_log = run_log
        self._timeline = timeline

    async def wait_until_idle(self) -> list[Violation]:
        """Wait until no job waits or runs; return what is still busy after the timeout."""
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while busy := await self._busy_parts():
            if time.monotonic() > deadline:
                return [Violation("nothing remains", what) for what in busy]
            await asyncio.sleep(0.5)
        return []

    async def _busy_parts(self) -> list[str]:
        depth = await self._cluster.queue.depth()
        busy = [f"{depth.waiting} jobs wait"] if depth.waiting else []
        busy += [f"{depth.running} jobs are leased"] if depth.running else []
        live = await self._cluster.registry.workers()
        missing = {worker.worker_id for worker in self._cluster.workers} - {w.id for w in live}
        busy += [f"{name} does not report" for name in sorted(missing)]
        return busy + [what for info in live for what in busy_with(info)]

    async def violations(self, before: Footprint) -> list[Violation]:
        found = [
            *(("nothing remains", what) for what in await self._keys_without_ttl()),
            *(("every accepted job ends once", what) for what in await self._unbalanced_totals()),
            *(("nothing remains", what) for what in await self._growth(before)),
        ]
        return [
            Violation(guarantee, what) for guarantee, what in found
        ] + await self._unknown_jobs()

    async def _keys_without_ttl(self) -> list[str]:
        """Return the keys without a TTL, except for the fixed keys of the queue."""
        keys = self._cluster.keys
        fixed = {keys.queue, keys.wake, keys.workers, keys.totals, keys.dead_letters}
        fixed |= {keys.job_index, keys.backlog}
        redis, found = self._cluster.redis, []
        async for key in redis.scan_iter(count=1000):
            name = key.decode()
            if name not in fixed and await redis.ttl(key) == -1:
                found.append(f"the key {name} has no TTL")
        return found

    async def _unbalanced_totals(self) -> list[str]:
        totals = await self._cluster.queue.totals()
        accepted = totals.pop(JobStatus.QUEUED, 0)
        ended = sum(totals.values())
        return [] if accepted == ended else [f"{accepted} jobs were accepted and {ended} ended"]

    async def _growth(self, before: Footprint) -> list[str]:
        """Return growth beyond one pooled Redis connection per concurrent call."""
        now, more = await footprint(self._cluster), self._concurrency + SPARE
        grown = [
            f"{name} holds {num_fds} file descriptors, {before.num_fds[name]} before"
            for name, num_fds in now.num_fds.items()
            if num_fds > before.num_fds[name] + more
        ]
        if now.num_connections > before.num_connections + more * len(self._cluster.apis):
            grown.append(f"{now.num_connections} connections, {before.num_connections} before")
        return grown

    async def _unknown_jobs(self) -> list[Violation]:
        """Return jobs that no caller knows, although no transport error explains them."""
        by_call = defaultdict(list)
        for record in await self._job_records():
            by_call[record.call_number].append(record)
        return [
            Violation("a refused call creates no job", what, log.plan.number)
            for log in self._run_log.logs
            for what in self._objections(log, by_call[log.plan.number])
        ]

    async def _job_records(self) -> list[JobRecord]:
        redis, prefix = self._cluster.redis, self._cluster.keys.record("")
        names = ["status", "ttl_ms", "created_ms", "finished_ms"]
        records = []
        async for key in redis.scan_iter(match=f"{prefix}*", count=1000):
            fields = await read_fields(redis, key.decode(), names)
            records.append(as_job_record(key.decode().removeprefix(prefix), *fields))
        return records

    def _objections(self, log: CallLog, records: list[JobRecord]) -> Iterator[str]:
        unknown = [job for job in records if job.job_id not in log.job_ids]
        ran = [
            job
            for job in unknown
            if job.status not in NEVER_RAN and not self._could_not_be_cancelled(log, job)
        ]
        if len(ran) > num_unknown_outcomes(log):
            jobs = Counter(str(job.status) for job in ran)
            yield f"the call was refused, but jobs exist: {dict(jobs)}"
        for job in records:
            if not job.status.is_terminal:
                yield f"job {job.job_id} stays {job.status}"
            if job.status is JobStatus.EXPIRED and log.plan.deadline_s is not None:
                yield from _expired_too_soon(job, log.plan.deadline_s)
        if log.plan.action is CallerAction.DISCONNECT and log.disconnected_at is not None:
            yield from self._ran_after_disconnect(log, log.disconnected_at, records)

    def _could_not_be_cancelled(self, log: CallLog, job: JobRecord) -> bool:
        """Return whether a 503 named the job and no replica could cancel it before it ended."""
        end = monotonic((job.finished_ms or 0) / 1000)
        return any(
            each.status == 503
            and job.job_id in each.detail
            and (
                self._timeline.redis_was_unreachable(each.replica, end, end)
                or self._timeline.was_down(each.replica, each.ended, end)
            )
            for each in log.attempts
        )

    def _ran_after_disconnect(
        self, log: CallLog, disconnected_at: float, records: list[JobRecord]
    ) -> Iterator[str]:
        """Yield jobs that ran on after the disconnect, unless a fault delayed the cancellation."""
        for job in records:
            late_s = monotonic((job.finished_ms or 0) / 1000) - disconnected_at
            is_late = job.status is not JobStatus.CANCELLED and late_s > CANCELLATION_S
            if is_late and not self._timeline.overlapping(
                log.started, disconnected_at + CANCELLATION_S
            ):
                yield f"job {job.job_id} ended {late_s:.1f} s after its caller disconnected"


def monotonic(wall_s: float) -> float:
    """Convert Redis time, which is this machine's wall clock, to monotonic time."""
    return time.monotonic() - (time.time() - wall_s)


def as_job_record(
    job_id: str,
    status: bytes | None,
    ttl_ms: bytes | None,
    created_ms: bytes | None,
    finished_ms: bytes | None,
) -> JobRecord:
    return JobRecord(
        job_id=job_id,
        status=JobStatus((status or b"").decode()),
        call_number=call_number(int(ttl_ms)) if ttl_ms else None,
        created_ms=int(created_ms or 0),
        finished_ms=int(finished_ms) if finished_ms else None,
    )


def busy_with(info: WorkerInfo) -> list[str]:
    counts = {
        "running": info.running,
        "waiting": info.waiting,
        "kv_tokens_used": info.kv_tokens_used,
    }
    return [f"{info.id} reports {name} {count}" for name, count in counts.items() if count]


def num_unknown_outcomes(log: CallLog) -> int:
    """Return the number of attempts that may have created a job without a response."""
    return sum(
        each.what in ("POST /chat", "POST /jobs")
        and each.error
        in (TransportError.BROKEN, TransportError.TIMEOUT, TransportError.DISCONNECTED)
        for each in log.attempts
    )


def _expired_too_soon(job: JobRecord, deadline_s: float) -> Iterator[str]:
    age_s = ((job.finished_ms or 0) - job.created_ms) / 1000
    if age_s < deadline_s - EXPIRY_TOLERANCE_S:
        yield f"job {job.job_id} expired after {age_s:.2f} s of {deadline_s:g} s"
