"""Decode job records, trails, and pages of the job listing with the cursors between them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from shared.origin import Origin, OriginKind
from shared.protocol import JobRecord, JobStatus, decode_metadata
from shared.queue.arq_format import decode_result
from shared.queue.backlog import QueueEstimate, decode_estimate

# Matched by pydantic in Rust and here in Python: `\d` and `$` differ between them.
CURSOR_PATTERN = "^[0-9]{1,13}-[0-9a-z-]{1,64}$"

# Fields of a record that `decode_trail` reads.
TRAIL_FIELDS = [
    "created_ms",
    "status",
    "trail",
    "finished_ms",
    "attempts",
    "worker",
    "subscribers",
    "owner",
]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last job of a page; the next page begins after it."""

    created_ms: int
    job_id: str

    def __str__(self) -> str:
        return f"{self.created_ms}-{self.job_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a cursor. Raises ValueError if `text` is not the cursor of a page."""
        if re.fullmatch(CURSOR_PATTERN, text) is None:
            raise ValueError("not a cursor that a page of jobs gave")
        created_ms, _, job_id = text.partition("-")
        return cls(int(created_ms), job_id)


@dataclass(frozen=True, slots=True)
class JobPage:
    records: list[JobRecord]  # without results; expired jobs are left out
    cursor: Cursor | None  # None only on the last page; an earlier page may be short or empty


def decode_page(reply: list[Any]) -> JobPage:
    """Decode the reply of `list_jobs.lua`."""
    jobs, last = reply
    records = [decode_record(job_id.decode(), record) for job_id, record in jobs]
    cursor = None if last is None else Cursor(int(last[0]), last[1].decode())
    return JobPage([record for record in records if record is not None], cursor)


def decode_record(job_id: str, reply: list[Any] | None) -> JobRecord | None:
    """Decode the result of `read_record` in `job_state.lua`; None without such a job."""
    if reply is None:
        return None
    fields, estimate, result = reply
    status, created_ms, started_ms, finished_ms, worker, attempts = fields[:6]
    retry_of, retried_as, metadata, origin, model, owner = fields[6:]
    queued: QueueEstimate | None = decode_estimate(estimate) if estimate else None
    return JobRecord(
        id=job_id,
        status=JobStatus(status.decode()),
        created_ms=int(created_ms),
        started_ms=int(started_ms) if started_ms else None,
        finished_ms=int(finished_ms) if finished_ms else None,
        attempts=int(attempts or 0),
        worker=worker.decode() if worker else None,
        position=queued.position if queued else None,
        expected_start_s=queued.expected_start_s if queued else None,
        lacks_worker=queued is not None and not queued.has_worker,
        retry_of=retry_of.decode() if retry_of else None,
        retried_as=retried_as.decode() if retried_as else None,
        metadata=decode_metadata(metadata) if metadata else None,
        origin=_decode_origin(origin),
        model=model.decode() if model else None,
        owner=owner.decode() if owner else None,
        outcome=decode_result(result).outcome if result else None,
    )


def _decode_origin(field: bytes | None) -> Origin | None:
    if not field:
        return None
    kind, _, job_id = field.decode().partition(" ")
    return Origin(OriginKind(kind), job_id)


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """An event of a job; scripts add it in a command that they send anyway."""

    at_ms: int
    event: str
    attempts: int  # runs that had died with their workers; at the end, also the run that ended it
    worker: str | None = None
    replicas: tuple[str, ...] = ()  # api replicas that were sent the terminal event


def decode_trail(values: Sequence[bytes | None], owner: str = "") -> list[TrailEntry] | None:
    """Decode the values of TRAIL_FIELDS; None without such a job of the owner, if one is given."""
    created_ms, status, trail, finished_ms, attempts, worker, subscribers, owned_by = (
        value and value.decode() for value in values
    )
    if not created_ms or not status or (owner and owner != owned_by):
        return None
    entries = [TrailEntry(int(created_ms), JobStatus.QUEUED, 0)]
    entries += [_decode_line(line) for line in (trail or "").splitlines()]
    if finished_ms:
        replicas = tuple((subscribers or "").split())
        end = TrailEntry(int(finished_ms), status, int(attempts or 0), worker or None, replicas)
        entries.append(end)
    return entries


def _decode_line(line: str) -> TrailEntry:
    at_ms, event, attempts, worker = line.split(" ", 3)
    return TrailEntry(int(at_ms), event, int(attempts), worker or None)
