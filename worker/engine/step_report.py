"""The report of one step: rows, tokens and drafts, and the seconds of each phase."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

P = TypeVar("P", bound=StrEnum)


class Phase(StrEnum):
    SCHEDULE = "schedule"
    FORWARD = "forward"
    SAMPLE = "sample"
    COMMIT = "commit"  # cache blocks, make text, end sequences


@dataclass(slots=True)
class StepReport:
    num_rows: int = 0  # 0: there was nothing to compute
    num_tokens: int = 0  # of prompts and of decoding sequences, with drafts
    seconds: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    num_drafts: int = 0
    num_accepted_drafts: int = 0

    def timed(self, phase: Phase) -> AbstractContextManager[None]:
        """Add the time of the block to a phase, also if it raises: a failed step is repeated."""
        return timed(self.seconds, phase)


@contextmanager
def timed(seconds: dict[P, float], phase: P) -> Iterator[None]:
    """Add the time of the block to the seconds of a phase, also if it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - started
