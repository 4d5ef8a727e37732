"""Pages of the listing of jobs, the newest first, and the cursors between them. Plain data."""

import re
from dataclasses import dataclass
from typing import Any, Self

from shared.protocol import JobRecord
from shared.queue.records import decode_record

# Read by Rust at the door, and here by Python: their `\d` and their `$` differ.
CURSOR_PATTERN = "^[0-9]{1,13}-[0-9a-z-]{1,64}$"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last job that a page looked at; the next one begins behind it."""

    created_ms: int
    job_id: str

    def __str__(self) -> str:
        return f"{self.created_ms}-{self.job_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what no page ever gave."""
        if re.fullmatch(CURSOR_PATTERN, text) is None:
            raise ValueError("not a cursor that a page of jobs gave")
        created_ms, _, job_id = text.partition("-")
        return cls(int(created_ms), job_id)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Records without their results. `cursor` is None at the end, and only there: a page may be
    short, or empty, because results that it would have shown have outlived their ttl."""

    records: list[JobRecord]
    cursor: Cursor | None


def decode_page(reply: list[Any]) -> JobPage:
    """`reply`: what `list_jobs.lua` returns."""
    jobs, last = reply
    records = [decode_record(job_id.decode(), record) for job_id, record in jobs]
    cursor = None if last is None else Cursor(int(last[0]), last[1].decode())
    return JobPage([record for record in records if record is not None], cursor)
