"""What one step did: how many rows and tokens it computed, and how long each phase of it took."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum

from worker.engine.timing import timed


class Phase(StrEnum):
    SCHEDULE = "schedule"
    FORWARD = "forward"
    SAMPLE = "sample"
    COMMIT = "commit"  # blocks filed, text made, sequences ended


@dataclass(slots=True)
class StepReport:
    """A step with nothing to compute has no rows."""

    num_rows: int = 0
    num_tokens: int = 0  # of prompts and of sequences that go on, their drafts included
    seconds: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    num_drafts: int = 0  # tokens that were guessed
    num_accepted_drafts: int = 0

    def timed(self, phase: Phase) -> AbstractContextManager[None]:
        """Add the time of what is inside, also if it fails: a failed step is repeated in parts."""
        return timed(self.seconds, phase)
