"""Check the event ids of a call's streams and merge their tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.harness.call_log import Delta, StreamConnection


def gaps(stream: StreamConnection) -> Iterator[str]:
    """Yield where the event ids of a connection are not consecutive from its Last-Event-ID."""
    expected = 0 if stream.after is None else stream.after + 1
    for delta in stream.deltas:
        if delta.index != expected:
            yield f"id {delta.index} where {expected} was expected"
            return
        expected += 1
    if stream.end_index is not None and stream.end_index != expected:
        yield f"the terminal event has id {stream.end_index}, {expected} was expected"


@dataclass(frozen=True, slots=True)
class StreamTrace:
    """Merged tokens of all streams of one job."""

    job_id: str
    texts: dict[int, str]  # by sequence
    token_ids: dict[int, list[int]]  # by sequence
    is_whole: bool  # whether a stream received the terminal event


def merged(streams: list[StreamConnection]) -> Iterator[StreamTrace]:
    """Merge the tokens of all connections of a job, each event id once, up to the first gap."""
    by_job: dict[str, list[StreamConnection]] = {}
    for stream in streams:
        by_job.setdefault(stream.job_id, []).append(stream)
    for job_id, of_job in by_job.items():
        deltas = {delta.index: delta for stream in of_job for delta in stream.deltas}
        is_whole = any(stream.end_index is not None for stream in of_job)
        trace = StreamTrace(job_id, {}, {}, is_whole)
        for index in range(len(deltas)):
            if (delta := deltas.get(index)) is None:
                break
            trace.texts[delta.sequence] = trace.texts.get(delta.sequence, "") + delta.text
            trace.token_ids.setdefault(delta.sequence, []).extend(delta.token_ids or ())
        yield trace


def contradictions(streams: list[StreamConnection]) -> Iterator[str]:
    """Yield event ids that have different tokens in different connections."""
    seen: dict[tuple[str, int], Delta] = {}
    for stream in streams:
        for delta in stream.deltas:
            first = seen.setdefault((stream.job_id, delta.index), delta)
            if not first.agrees_with(delta):
                yield f"id {delta.index} of {stream.job_id[:8]} is {first} and then {delta}"
