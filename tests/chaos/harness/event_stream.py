"""Read server-sent events as a browser does."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.chaos.harness.call_log import Delta, StreamConnection


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    id: int | None  # None if the event has none
    data: dict[str, Any]


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    event_id: int | None = None
    async for line in response.aiter_lines():
        if line.startswith("id:"):
            event_id = int(line.removeprefix("id:"))
        elif line.startswith("data:"):
            yield Event(event_id, json.loads(line.removeprefix("data:")))
            event_id = None


def record_event(stream: StreamConnection, event: Event) -> dict[str, Any] | None:
    """Add the event to the stream; return the data of a terminal event."""
    status = event.data.get("status")
    if status is None:
        token_ids = event.data.get("token_ids")
        stream.deltas.append(
            Delta(
                index=-1 if event.id is None else event.id,
                sequence=event.data["sequence"],
                text=event.data["delta"],
                token_ids=None if token_ids is None else tuple(token_ids),
            )
        )
    elif status not in ("queued", "running"):  # a shutdown event: resume at another replica
        stream.end_index = event.id
        return event.data
    return None
