"""A job's token log as its worker keeps it: all deltas, and how many of them Redis has.

Those that Redis has are kept as well: it may lose its last second. Plain data.
"""

import asyncio

from shared.protocol import Delta, encode
from shared.queue.token_log import MAX_AT_ONCE, Addition
from worker.jobs.active_job import ActiveJob


class JobLog:
    """`earlier` is what other attempts wrote."""

    def __init__(self, held: ActiveJob, earlier: list[Delta]) -> None:
        self.earlier = earlier
        self.written = asyncio.Event()
        self._held = held
        self._deltas = [encode(delta) for delta in earlier]
        self._num_written = len(earlier)
        self.note_length(len(earlier))

    def __len__(self) -> int:
        return len(self._deltas)

    def append(self, delta: Delta) -> None:
        self._deltas.append(encode(delta))
        self.written.clear()

    def unwritten(self) -> Addition:
        """What Redis should get next, under the fence that counts now."""
        start = self._num_written
        deltas = self._deltas[start : start + MAX_AT_ONCE]
        return Addition(self._held.job.id, self._held.fence, start, deltas)

    def note_length(self, length: int) -> None:
        """Redis has so many; fewer than before if it lost some."""
        self._num_written = length
        if length >= len(self._deltas):
            self.written.set()
