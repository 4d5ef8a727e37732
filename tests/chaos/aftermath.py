"""What a run leaves behind in Redis and in the processes, when all its callers have gone."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from shared.protocol import JobStatus, WorkerInfo
from tests.chaos.cluster import Cluster
from tests.chaos.history import History, Mishap, Story
from tests.chaos.plans import Whim, call_number
from tests.chaos.promises import Violation
from tests.chaos.takeover import read_fields
from tests.chaos.weather import Weather

QUIET_TIMEOUT_S = 60.0  # after the last caller: everything is handed back, reported, forgotten
CANCEL_TAKES_S = 5.0  # from a closed connection to the end of its job, on a slow machine
NEVER_RAN = (JobStatus.CANCELLED, JobStatus.EXPIRED)  # taken back after all, or too late anyway
SPARE = 16  # connections that come and go whatever the load; a leak is one per call
MARKS_S = 1.0  # a job may be told to expire this much before its deadline is over


@dataclass(frozen=True, slots=True)
class Left:
    """The record of one job as it lies in Redis."""

    job_id: str
    status: JobStatus
    call_number: int | None  # None: a mark that the job must not be accepted any more
    created_ms: int
    finished_ms: int | None


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the processes hold; compared before and after."""

    num_fds: dict[str, int]  # by member
    num_connections: int


async def footprint(cluster: Cluster) -> Footprint:
    clients = await cluster.redis.client_list()
    fds = {member.name: member.num_fds for member in cluster.members}
    return Footprint(fds, len(clients))


class Aftermath:
    def __init__(
        self, cluster: Cluster, history: History, weather: Weather, concurrency: int
    ) -> None:
        self._cluster = cluster
        self._concurrency = concurrency
        self._history = history
        self._weather = weather

    async def settle(self) -> list[Violation]:
        """Wait for quiet; what does not become so in time is a violation."""
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while unrest := await self._unrest():
            if time.monotonic() > deadline:
                return [Violation("nothing is left behind", what) for what in unrest]
            await asyncio.sleep(0.5)
        return []

    async def _unrest(self) -> list[str]:
        depth = await self._cluster.queue.depth()
        unrest = [f"{depth.waiting} jobs wait"] if depth.waiting else []
        unrest += [f"{depth.running} leases are out"] if depth.running else []
        live = await self._cluster.registry.workers()
        missing = {worker.worker_id for worker in self._cluster.workers} - {w.id for w in live}
        unrest += [f"{name} does not report" for name in sorted(missing)]
        return unrest + [what for info in live for what in busy_with(info)]

    async def violations(self, before: Footprint) -> list[Violation]:
        found = [
            *(("nothing is left behind", what) for what in await self._lasting_keys()),
            *(("accepted is ended, once", what) for what in await self._unbalanced()),
            *(("nothing is left behind", what) for what in await self._growth(before)),
        ]
        return [Violation(promise, what) for promise, what in found] + await self._strays()

    async def _lasting_keys(self) -> list[str]:
        """Every key ends by itself, but for the few of the queue itself."""
        keys = self._cluster.keys
        fixed = {keys.queue, keys.wake, keys.workers, keys.totals, keys.dead_letters}
        fixed |= {keys.job_index, keys.backlog}
        redis, lasting = self._cluster.redis, []
        async for key in redis.scan_iter(count=1000):
            name = key.decode()
            if name not in fixed and await redis.ttl(key) == -1:
                lasting.append(f"the key {name} never ends")
        return lasting

    async def _unbalanced(self) -> list[str]:
        totals = await self._cluster.queue.totals()
        accepted = totals.pop(JobStatus.QUEUED, 0)
        ended = sum(totals.values())
        return [] if accepted == ended else [f"{accepted} jobs were accepted and {ended} ended"]

    async def _growth(self, before: Footprint) -> list[str]:
        """Each call under way may need a connection to Redis, which is kept for the next one."""
        now, more = await footprint(self._cluster), self._concurrency + SPARE
        grown = [
            f"{name} holds {num_fds} file descriptors, {before.num_fds[name]} before"
            for name, num_fds in now.num_fds.items()
            if num_fds > before.num_fds[name] + more
        ]
        if now.num_connections > before.num_connections + more * len(self._cluster.apis):
            grown.append(f"{now.num_connections} connections, {before.num_connections} before")
        return grown

    async def _strays(self) -> list[Violation]:
        """Jobs that no caller knows of and none can be blamed for."""
        by_call = defaultdict(list)
        for left in await self._left():
            by_call[left.call_number].append(left)
        return [
            Violation("refused is not accepted", what, story.plan.number)
            for story in self._history.stories
            for what in self._objections(story, by_call[story.plan.number])
        ]

    async def _left(self) -> list[Left]:
        redis, prefix = self._cluster.redis, self._cluster.keys.record("")
        names = ["status", "ttl_ms", "created_ms", "finished_ms"]
        left = []
        async for key in redis.scan_iter(match=f"{prefix}*", count=1000):
            fields = await read_fields(redis, key.decode(), names)
            left.append(as_left(key.decode().removeprefix(prefix), *fields))
        return left

    def _objections(self, story: Story, left: list[Left]) -> Iterator[str]:
        unknown = [job for job in left if job.job_id not in story.job_ids]
        ran = [
            job
            for job in unknown
            if job.status not in NEVER_RAN and not self._was_out_of_reach(story, job)
        ]
        if len(ran) > num_unknown_answers(story):
            jobs = Counter(str(job.status) for job in ran)
            yield f"its caller was refused, and yet there are jobs: {dict(jobs)}"
        for job in left:
            if not job.status.is_terminal:
                yield f"job {job.job_id} is {job.status} for ever"
            if job.status is JobStatus.EXPIRED and story.plan.deadline_s is not None:
                yield from _expired_too_soon(job, story.plan.deadline_s)
        if story.plan.whim is Whim.LEAVE and story.left is not None:
            yield from self._ran_for_nobody(story, story.left, left)

    def _was_out_of_reach(self, story: Story, job: Left) -> bool:
        """The 503 said that it may have been accepted, and until its end nobody could cancel it."""
        end = monotonic((job.finished_ms or 0) / 1000)
        return any(
            each.status == 503
            and job.job_id in each.detail
            and (
                self._weather.redis_was_away(each.replica, end, end)
                or self._weather.was_ending(each.replica, each.ended, end)
            )
            for each in story.tries
        )

    def _ran_for_nobody(self, story: Story, left_at: float, left: list[Left]) -> Iterator[str]:
        """A fault on the way excuses it: what nobody could be told of is only logged."""
        for job in left:
            late_s = monotonic((job.finished_ms or 0) / 1000) - left_at
            is_late = job.status is not JobStatus.CANCELLED and late_s > CANCEL_TAKES_S
            if is_late and not self._weather.during(story.began, left_at + CANCEL_TAKES_S):
                yield f"job {job.job_id} ended {late_s:.1f} s after its caller had left"


def monotonic(wall_s: float) -> float:
    """A time of Redis, which tells it by the same machine's clock, as the harness tells times."""
    return time.monotonic() - (time.time() - wall_s)


def as_left(
    job_id: str,
    status: bytes | None,
    ttl_ms: bytes | None,
    created_ms: bytes | None,
    finished_ms: bytes | None,
) -> Left:
    return Left(
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


def num_unknown_answers(story: Story) -> int:
    """Requests that may have made a job of which the caller was not told."""
    return sum(
        each.what in ("POST /chat", "POST /jobs")
        and each.mishap in (Mishap.BROKEN, Mishap.HUNG, Mishap.LEFT)
        for each in story.tries
    )


def _expired_too_soon(job: Left, deadline_s: float) -> Iterator[str]:
    lived_s = ((job.finished_ms or 0) - job.created_ms) / 1000
    if lived_s < deadline_s - MARKS_S:
        yield f"job {job.job_id} expired after {lived_s:.2f} s of {deadline_s:g} s"
