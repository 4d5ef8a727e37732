"""What the streams of one caller told: whether it is without a gap, and what it amounts to."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.history import Piece, Stream


def gaps(stream: Stream) -> Iterator[str]:
    """Each connection tells the index after the last, from the one it asked for."""
    wanted = 0 if stream.after is None else stream.after + 1
    for piece in stream.pieces:
        if piece.index != wanted:
            yield f"id {piece.index} where {wanted} was due"
            return
        wanted += 1
    if stream.end_index is not None and stream.end_index != wanted:
        yield f"the terminal event has id {stream.end_index}, {wanted} was due"


@dataclass(frozen=True, slots=True)
class Told:
    """All that the streams of one job told; `is_whole`: its terminal event too."""

    job_id: str
    texts: dict[int, str]
    token_ids: dict[int, list[int]]
    is_whole: bool


def merged(streams: list[Stream]) -> Iterator[Told]:
    """Merge the pieces of all connections of a job, each index once, up to the first gap."""
    by_job: dict[str, list[Stream]] = {}
    for stream in streams:
        by_job.setdefault(stream.job_id, []).append(stream)
    for job_id, of_job in by_job.items():
        pieces = {piece.index: piece for stream in of_job for piece in stream.pieces}
        is_whole = any(stream.end_index is not None for stream in of_job)
        told = Told(job_id, {}, {}, is_whole)
        for index in range(len(pieces)):
            if (piece := pieces.get(index)) is None:
                break
            told.texts[piece.sequence] = told.texts.get(piece.sequence, "") + piece.text
            told.token_ids.setdefault(piece.sequence, []).extend(piece.token_ids or ())
        yield told


def contradictions(streams: list[Stream]) -> Iterator[str]:
    """All connections of a job tell the same under the same id."""
    seen: dict[tuple[str, int], Piece] = {}
    for stream in streams:
        for piece in stream.pieces:
            first = seen.setdefault((stream.job_id, piece.index), piece)
            if not first.agrees_with(piece):
                yield f"id {piece.index} of {stream.job_id[:8]} is {first} and then {piece}"
