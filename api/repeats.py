"""Which pieces of a stream were told before: a job that runs again tells its text anew."""

from collections import Counter

from shared.protocol import Delta


class Repeats:
    """Counts each sequence's deltas, run by run.

    A run repeats the deltas of every sequence in the same order, but the sequences may be
    interleaved in another way, so one count over all of them would not do. What a stream missed
    that joined late counts as told, for the sequence it hears of first: exact for a single one.
    """

    def __init__(self) -> None:
        self._told: Counter[int] = Counter()
        self._heard: dict[int, Counter[int]] = {}

    def is_new(self, delta: Delta) -> bool:
        if not self._heard:
            self._told[delta.sequence] = delta.index
        if delta.index == 0 or not self._heard:  # a run begins; one handed back keeps its attempt
            self._heard[delta.attempt] = Counter({delta.sequence: delta.index})
        heard = self._heard.setdefault(delta.attempt, Counter())
        heard[delta.sequence] += 1
        if heard[delta.sequence] <= self._told[delta.sequence]:
            return False
        self._told[delta.sequence] += 1
        return True
