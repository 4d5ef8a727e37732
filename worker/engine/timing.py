"""Seconds by phase, of a step or of a load."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

P = TypeVar("P", bound=StrEnum)


@contextmanager
def timed(seconds: dict[P, float], phase: P) -> Iterator[None]:
    """Add the time of what is inside to a phase's, also if it fails."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - started
