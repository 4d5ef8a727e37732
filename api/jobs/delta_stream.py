"""A job from any index on: its deltas, each once and in order, and then its end. Knows no HTTP.

Deltas come as events. Those that do not (the caller came late, Redis lost an entry) are in the
job's log, and a job that keeps no log tells its result.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from api.jobs.job_handle import JobHandle, as_outcome
from shared.errors import ServiceUnavailable
from shared.protocol import Delta, Event, Finished, Outcome, TokenDeltas
from shared.queue.token_log import PAGE
from shared.redis.retry import Backoff

QUIET_S = 5.0  # after so long without an event the log is read: others may have missed it too


@dataclass(frozen=True, slots=True)
class Piece:
    """`index` counts a job's deltas from 0, whatever the attempt; the end's is their number."""

    index: int
    content: Delta | Outcome


class DeltaStream:
    def __init__(self, ticket: JobHandle, start: int = 0) -> None:
        self._ticket = ticket
        self._next = start

    async def is_over(self) -> bool:
        """Whether all was told before the start, the end included; raises ServiceUnavailable."""
        outcome = as_outcome(self._ticket.record)
        if outcome is None or self._next == 0:
            return False
        num_deltas = num_deltas_of(outcome)
        if num_deltas is None:
            num_deltas = await self._ticket.log_length()
        return self._next > num_deltas

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """Up to the end; None now and then while there is nothing to tell."""
        if not self._ticket.is_submitter:
            async for piece in self._logged(math.inf):
                yield piece
        while True:
            event = await self._ticket.next_event(QUIET_S)
            async for piece in self._logged(first_index(event)):
                yield piece
            if event is None:
                yield None
                continue
            for told in self._of(event):
                yield told
            if not isinstance(event, TokenDeltas):
                return

    async def _logged(self, end: float) -> AsyncIterator[Piece | None]:
        """What the log has from here to `end`, or beyond; waits for a Redis that is away."""
        backoff = Backoff()
        while self._next < end:
            try:
                page = await self._ticket.logged(self._next)
            except ServiceUnavailable:
                yield None
                await asyncio.sleep(backoff.next_s())
                continue
            for delta in page:
                yield self._piece(delta)
            if len(page) < PAGE:
                return

    def _of(self, event: Event) -> Iterator[Piece]:
        """What an event has that is new. A stretch after a gap will come again.

        For such a gap is not in the log either: Redis lost it, and the worker sends it anew.
        """
        if isinstance(event, TokenDeltas):
            if event.index <= self._next:
                for delta in event.deltas[self._next - event.index :]:
                    yield self._piece(delta)
            return
        for delta in deltas_of_result(event)[self._next :]:
            yield self._piece(delta)
        yield Piece(max(self._next, num_deltas_of(event) or 0), event)

    def _piece(self, delta: Delta) -> Piece:
        index = self._next
        self._next += 1
        return Piece(index, delta)


def first_index(event: Event | None) -> float:
    """Up to where the log must have been told before this event is."""
    if isinstance(event, TokenDeltas):
        return event.index
    num_deltas = None if event is None else num_deltas_of(event)
    return math.inf if num_deltas is None else num_deltas


def num_deltas_of(outcome: Outcome) -> int | None:
    """None where only the log knows."""
    if not isinstance(outcome, Finished):
        return None
    return len(deltas_of_result(outcome)) if outcome.num_deltas is None else outcome.num_deltas


def deltas_of_result(outcome: Outcome) -> list[Delta]:
    """One for each sequence of a job that kept no log."""
    if not isinstance(outcome, Finished) or outcome.num_deltas is not None:
        return []
    return [
        Delta(sequence=index, text=sequence.text, token_ids=sequence.token_ids or [])
        for index, sequence in enumerate(outcome.result.sequences)
    ]
