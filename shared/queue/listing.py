"""Pages of the job listing, the newest jobs first, and the cursors between them."""

import re
from dataclasses import dataclass
from typing import Any, Self

from shared.protocol import JobRecord
from shared.queue.records import decode_record

# Matched by pydantic (Rust) and here by Python, whose `\d` and `$` differ.
CURSOR_PATTERN = "^[0-9]{1,13}-[0-9a-z-]{1,64}$"


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
    records: list[JobRecord]  # without results; jobs whose results have expired are left out
    cursor: Cursor | None  # None only on the last page; an earlier page may be short or empty


def decode_page(reply: list[Any]) -> JobPage:
    """Decode the reply of `list_jobs.lua`."""
    jobs, last = reply
    records = [decode_record(job_id.decode(), record) for job_id, record in jobs]
    cursor = None if last is None else Cursor(int(last[0]), last[1].decode())
    return JobPage([record for record in records if record is not None], cursor)
