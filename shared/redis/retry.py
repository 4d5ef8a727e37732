"""How long to wait before trying a Redis that did not answer again."""

import random


class Backoff:
    """Delays that double up to a cap, with jitter so that a fleet does not return as one."""

    def __init__(self, first_s: float = 0.05, cap_s: float = 2.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def next_s(self) -> float:
        delay_s = self._next_s
        self._next_s = min(self._cap_s, 2 * delay_s)
        return delay_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next_s = self._first_s
