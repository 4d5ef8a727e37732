"""Read the events of a job over several connections, from replica to replica."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from shared.protocol import JobStatus
from tests.chaos.harness.call_log import CallLog, Delta, Observation, StreamConnection
from tests.chaos.harness.client import (
    PAUSE_S,
    Answer,
    Call,
    Client,
    ConnectionLost,
    ConnectionRefused,
    RetriesExhausted,
    read_answer,
)

MAX_CONNECTIONS = 100  # of one stream before the reader gives up
TIMEOUT_S = 90.0
HANG_UP_SHARE = 0.3  # of connections that the reader closes early
HANG_UP_AFTER = (1, 4, 16)  # events


class StreamReader:
    def __init__(self, client: Client, random: Random) -> None:
        self._client = client
        self._random = random

    async def start(self, log: CallLog, call: Call) -> StreamConnection | Answer:
        """Return the first stream connection, or the response of a call without a stream.

        Raises ConnectionLost if the outcome is unknown and the call is not repeatable.
        """
        for _ in range(MAX_CONNECTIONS):
            try:
                first = await self._read(log, call)
            except ConnectionRefused:
                await asyncio.sleep(PAUSE_S)
            except ConnectionLost:
                if not call.is_repeatable:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                if isinstance(first, StreamConnection) or not first.must_retry:
                    return first
                await asyncio.sleep(first.retry_after_s)
        raise RetriesExhausted("no stream started")

    async def resume(self, log: CallLog, job_id: str, after: int | None = None) -> None:
        """Read from event `after` to the terminal event, at any replica."""
        for _ in range(MAX_CONNECTIONS):
            headers = {} if after is None else {"Last-Event-ID": str(after)}
            call = Call("GET", f"/jobs/{job_id}/events", headers=headers, timeout_s=TIMEOUT_S)
            with suppress(ConnectionLost, ConnectionRefused):
                result = await self._read(log, call, after, self._draw_hang_up())
                if isinstance(result, Answer):
                    await asyncio.sleep(result.retry_after_s)
                    continue
                if result.end_index is not None:
                    return
                after = result.last_index
            await asyncio.sleep(PAUSE_S)
        raise RetriesExhausted(f"the stream of job {job_id} has no terminal event")

    def _draw_hang_up(self) -> int | None:
        """Return after how many events the reader hangs up, or None to read to the end."""
        hangs_up = self._random.random() < HANG_UP_SHARE
        return self._random.choice(HANG_UP_AFTER) if hangs_up else None

    async def _read(
        self, log: CallLog, call: Call, after: int | None = None, hang_up_after: int | None = None
    ) -> StreamConnection | Answer:
        """Read one connection to its end.

        Raises ConnectionRefused, and ConnectionLost if it broke before the first event.
        """
        stream, started = None, time.monotonic()
        try:
            async with self._client.opened(log, call) as response:
                if response.status_code != 200:
                    return await read_answer(response, started)
                job_id = job_of(call, response.headers["Location"])
                stream = StreamConnection(job_id, str(call), after)
                log.streams.append(stream)
                async for event in read_events(response):
                    if (end := record_event(stream, event)) is not None:
                        observe_terminal_event(log, stream, end)
                    if hang_up_after is not None and len(stream.deltas) >= hang_up_after:
                        break
        except ConnectionLost:
            if stream is None:
                raise
        return stream


def job_of(call: Call, location: str) -> str:
    """Return the job id from the path of a resumed stream, or the Location of a new one."""
    path = call.path if call.path.startswith("/jobs/") else location
    return path.split("/")[2]


def observe_terminal_event(log: CallLog, stream: StreamConnection, end: dict[str, object]) -> None:
    """Log the state in a terminal event, which is the body of a 200 response with a status."""
    status = JobStatus(str(end["status"]))
    result = {k: v for k, v in end.items() if k != "status"} if "Result" in end else None
    now = time.monotonic()
    log.observations.append(Observation(stream.job_id, status, now, now, stream.via, result))


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    id: int | None  # None if the event has none
    data: dict[str, Any]


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    """Yield the events without a name."""
    event_id: int | None = None
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("id:"):
            event_id = int(line.removeprefix("id:"))
        elif line.startswith("event:"):
            name = line.removeprefix("event:")
        elif line.startswith("data:") and not name:
            yield Event(event_id, json.loads(line.removeprefix("data:")))
            event_id = None
        elif not line:
            name = ""


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
