"""A job this worker has leased, from claim to end. Plain data; its fields are set on the loop."""

import asyncio
import time
from dataclasses import dataclass, field

from shared.claims import ClaimedJob
from shared.protocol import ChatJob, Outcome


@dataclass(slots=True, eq=False)
class HeldJob:
    """`rows` and `tokens` are what it may take up in the engine.

    `deadline` is monotonic time. `fence` changes when the worker claims its own expired lease
    again. `changed` wakes the task: its tokens are there or a caller cancelled it. `is_lost`:
    another worker has it by now, nothing may be written. `is_stopped`: end it without an outcome.
    """

    claimed: ClaimedJob
    fence: int
    rows: int
    tokens: int
    runs_alone: bool
    attempt: int
    deadline: float
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False
    is_lost: bool = False
    is_stopped: bool = False
    outcome: Outcome | None = None

    @property
    def job(self) -> ChatJob:
        return self.claimed.job

    @property
    def time_left_s(self) -> float:
        """Until its deadline; negative once that has passed."""
        return self.deadline - time.monotonic()

    def cancel(self) -> None:
        """A caller wants no more of it."""
        self.is_cancelled = True
        self.changed.set()
