"""Reads server-sent events as a browser does: an id, a line of data, comments in between."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.chaos.history import Piece, Stream


@dataclass(frozen=True, slots=True)
class Event:
    """`id` is None where the event has none."""

    id: int | None
    data: dict[str, Any]


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    event_id: int | None = None
    async for line in response.aiter_lines():
        if line.startswith("id:"):
            event_id = int(line.removeprefix("id:"))
        elif line.startswith("data:"):
            yield Event(event_id, json.loads(line.removeprefix("data:")))
            event_id = None


def note(stream: Stream, event: Event) -> dict[str, Any] | None:
    """Write the event into the stream; returns the terminal event's data."""
    status = event.data.get("status")
    if status is None:
        token_ids = event.data.get("token_ids")
        stream.pieces.append(
            Piece(
                index=-1 if event.id is None else event.id,
                sequence=event.data["sequence"],
                text=event.data["delta"],
                token_ids=None if token_ids is None else tuple(token_ids),
            )
        )
    elif status not in ("queued", "running"):  # those are a farewell: go on elsewhere
        stream.end_index = event.id
        return event.data
    return None
