"""What the callers of a run saw, as plain data: every try, every sight of a job, every stream.

Times are the harness's own, monotonic seconds.
"""

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.protocol import JobStatus
from tests.chaos.plans import Plan


class Mishap(StrEnum):
    """Why a try got no answer."""

    REFUSED = "connection refused"
    BROKEN = "connection broken"
    HUNG = "no answer within its bound"
    LEFT = "the caller left"


@dataclass(frozen=True, slots=True)
class Try:
    """One HTTP request; `status` is None where there was no answer, then there is a mishap."""

    replica: str
    what: str  # method and path
    began: float
    ended: float
    status: int | None = None
    mishap: Mishap | None = None
    retry_after: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        came = self.status if self.status is not None else self.mishap
        return (
            f"{self.what} at {self.replica}: {came} {self.detail} ({self.ended - self.began:.2f} s)"
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """A job as an answer showed it; the answer was under way from `began` to `ended`."""

    job_id: str
    status: JobStatus
    began: float
    ended: float
    via: str
    result: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.via} shows {self.job_id[:8]} {self.status}"


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream that carries text."""

    index: int
    sequence: int
    text: str
    token_ids: tuple[int, ...] | None

    def agrees_with(self, other: "Piece") -> bool:
        """Not every stream tells the token ids."""
        if self.token_ids is not None and other.token_ids is not None:
            return self == other
        return (self.sequence, self.text) == (other.sequence, other.text)


@dataclass(slots=True)
class Stream:
    """What one connection told, from its first event on; `after` is the Last-Event-ID it sent."""

    job_id: str
    via: str
    after: int | None
    pieces: list[Piece] = field(default_factory=list)
    end_index: int | None = None  # id of the terminal event, if it came

    @property
    def last_index(self) -> int | None:
        """Where the next connection goes on."""
        return self.pieces[-1].index if self.pieces else self.after

    def __str__(self) -> str:
        ids = [piece.index for piece in self.pieces]
        told = f"ids {ids[0]}..{ids[-1]}" if ids else "nothing"
        end = "" if self.end_index is None else f", end {self.end_index}"
        return f"{self.via} after {self.after}: {told}{end}"


@dataclass(slots=True)
class Story:
    """All that one call saw."""

    plan: Plan
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    tries: list[Try] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    is_lost: bool = False  # nobody told the caller what became of its request
    failure: str | None = None  # the caller could not go on
    left: float | None = None
    retry_id: str | None = None  # the job that retries the first one

    @property
    def job_ids(self) -> list[str]:
        """In the order in which the caller heard of them."""
        heard = [sight.job_id for sight in self.sights] + [s.job_id for s in self.streams]
        return list(dict.fromkeys(heard))

    @property
    def end(self) -> Sight | None:
        """The first sight of the end of the call's job, or of its retry."""
        ends = (
            sight
            for sight in self.sights
            if sight.status.is_terminal and self.retry_id in (None, sight.job_id)
        )
        return next(ends, None)

    def lines(self) -> list[str]:
        """The story in the order of time, for whoever must find out what went wrong."""
        events: list[tuple[float, str]] = [
            *((each.began, str(each)) for each in self.tries),
            *((each.ended, str(each)) for each in self.sights),
        ]
        told = [f"+{at - self.began:7.2f} s  {what}" for at, what in sorted(events)]
        return [f"call {self.plan.number}: {self.plan}", *told, *map(str, self.streams)]


@dataclass(slots=True)
class History:
    stories: list[Story] = field(default_factory=list)

    def open(self, plan: Plan) -> Story:
        story = Story(plan)
        self.stories.append(story)
        return story
