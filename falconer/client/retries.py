"""How often and how long the client repeats a request."""

import math
import random
import time
from dataclasses import dataclass

from falconer.client.errors import ApiError

FIRST_PAUSE_S = 0.1  # doubles with each attempt
MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Limits for a request that gets 429, 502, 503, 504 or no response.

    They apply to failures in a row: a poll of a wait with an answer, and an event or a lasting
    connection of a stream, end the row.
    """

    attempts: int = 6  # the first one included
    total_s: float = 60.0  # since the first; a longer `Retry-After` raises the error at once


DEFAULT_RETRIES = Retries()


class Attempts:
    """The failed attempts in a row. The time before the first failure does not count."""

    def __init__(self, retries: Retries, until: float = math.inf) -> None:
        self._retries = retries
        self._until = until  # in the time of `time.monotonic`
        self.restart()

    def restart(self) -> None:
        self._num_failed = 0
        self._deadline = math.inf

    def pause_s(self, error: ApiError) -> float:
        """Return the seconds until the next attempt. Raises `error` if there is none."""
        now = time.monotonic()
        if self._num_failed == 0:
            self._deadline = min(now + self._retries.total_s, self._until)
        self._num_failed += 1
        pause_s = error.retry_after
        if pause_s is None:
            pause_s = min(FIRST_PAUSE_S * 2 ** (self._num_failed - 1), MAX_PAUSE_S)
            pause_s *= random.uniform(0.5, 1.0)  # clients that failed together return apart
        is_last = self._num_failed >= self._retries.attempts
        if is_last or not error.is_temporary or now + pause_s > self._deadline:
            raise error
        return pause_s
