"""Stream a job as server-sent events: one event per delta, then one terminal event."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.disconnect import ClientConnection
from api.http.errors import ClientDisconnected, ServerStopping, stopping_message
from api.http.paths import job_path
from api.jobs.job_client import JobClient
from api.jobs.job_handle import JobHandle, num_deltas_of
from shared.errors import HTTP_STATUS, ServiceUnavailable
from shared.protocol import (
    Delta,
    Failed,
    JobError,
    JobRecord,
    JobStatus,
    Outcome,
    TokenDeltas,
)
from shared.registry.worker_registry import LoadingWorker

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
STATUS = "status"  # of an event: a client that reads unnamed events only does not see it

# `str.splitlines` splits at these characters, and so do httpx and requests. JSON escapes the other
# separators itself: they are below U+0020.
LINE_SEPARATORS = {char.encode(): b"\\u%04x" % ord(char) for char in "\x85\u2028\u2029"}


class EventStreamResponse(Response):
    """Send the job's events from delta `start` on, and close the handle."""

    media_type = "text/event-stream"

    def __init__(
        self,
        client: JobClient,
        handle: JobHandle,
        stopping: asyncio.Event,
        *,
        cancel_on_disconnect: bool,
        start: int = 0,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._client = client
        self._handle = handle
        self._stopping = stopping
        self._events = EventStream(handle, start)
        self._cancel_on_disconnect = cancel_on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Location"] = job_path(scope, self._handle.job_id)
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        with self._handle:
            await send(start)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                client = ClientConnection(receive, self._stopping)
                await client.run_until_disconnect(self._send_events(send))
            except ClientDisconnected:
                if self._cancel_on_disconnect:
                    await self._client.cancel_abandoned(self._handle.job_id)
            except ServerStopping:
                await send({"type": "http.response.body", "body": self._events.shutdown_event()})

    async def _send_events(self, send: Send) -> None:
        async for chunk in self._events.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EventStream:
    """The bytes of one response."""

    def __init__(self, handle: JobHandle, start: int) -> None:
        self._handle = handle
        self._start = start
        self._status: dict[str, Any] | None = None  # that the client has

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the job's events up to the terminal one, and comments while there is none.

        While the job is queued, yield its changing place in the queue as events `status`.
        """
        sent_at, next_id = time.monotonic(), self._start
        if must_wait(self._handle.record) and (status := await self._new_status()):
            yield event(status, name=STATUS)
        async for news in self._handle.events(self._start):
            if isinstance(news, TokenDeltas):
                for event_id, delta in enumerate(news.deltas, news.index):
                    yield event(delta_body(delta), event_id)
                next_id = news.end
            elif news is not None:
                event_id = max(next_id, num_deltas_of(news) or 0)
                yield event(terminal_body(news), event_id)
            elif status := await self._new_status():
                yield event(status, name=STATUS)
            elif time.monotonic() - sent_at < KEEP_ALIVE_S:
                continue
            else:
                yield KEEP_ALIVE
            sent_at = time.monotonic()

    async def _new_status(self) -> dict[str, Any] | None:
        """Return what the client must know of the waiting job; None without news."""
        await self._handle.watch_loading()
        earlier = self._status
        self._status = waiting_body(self._handle.record, self._handle.loading)
        return None if self._status == earlier else self._status

    def shutdown_event(self) -> bytes:
        """Return the last event of a server that shuts down: it says that the job continues.

        It has no id: a client that resumes after the last id it received misses no event.
        """
        message = stopping_message(self._handle.job_id)
        error = JobError(message=message, status_code=HTTP_STATUS[ServiceUnavailable])
        return event({"id": self._handle.job_id, "status": JobStatus.RUNNING, "error": error})


def event(body: dict[str, Any], event_id: int | None = None, *, name: str | None = None) -> bytes:
    """Encode one event: its name and its id, then its JSON in one line."""
    data = msgspec.json.encode(body)
    for separator, escape in LINE_SEPARATORS.items():
        data = data.replace(separator, escape)
    id_line = b"" if event_id is None else b"id: %d\n" % event_id
    name_line = b"" if name is None else b"event: %b\n" % name.encode()
    return b"%b%bdata: %b\n\n" % (name_line, id_line, data)


def must_wait(record: JobRecord | None) -> bool:
    """Return whether a job waits for other jobs or for a worker."""
    return record is not None and (record.lacks_worker or (record.position or 1) > 1)


def waiting_body(
    record: JobRecord | None, loading: LoadingWorker | None = None
) -> dict[str, Any] | None:
    """Return the place of a queued job; None for other jobs.

    It has no field `status`, by which clients recognize the terminal event.
    """
    if record is None or record.position is None:
        return None
    body = {
        "position": record.position,
        "expected_start_s": record.expected_start_s,
        "waiting_for": "worker" if record.lacks_worker else None,
        "loading": None if loading is None else loading_body(loading),
    }
    return {name: value for name, value in body.items() if value is not None}


def loading_body(loading: LoadingWorker) -> dict[str, Any]:
    """Return how much of its weights a worker has read, of 1, and the seconds for the rest."""
    body = {
        "worker": loading.id,
        "progress": round(loading.read_bytes / max(loading.total_bytes, 1), 3),
        "eta_s": loading.eta_s,
    }
    return {name: value for name, value in body.items() if value is not None}


def delta_body(delta: Delta) -> dict[str, Any]:
    """Return the delta. Without token ids it is a whole sequence of a job that was not streamed."""
    body: dict[str, Any] = {"sequence": delta.sequence, "delta": delta.text}
    return body | {"token_ids": delta.token_ids} if delta.token_ids else body


def terminal_body(outcome: Outcome) -> dict[str, Any]:
    """Return the body of a 200 response with a status, or a status with an error."""
    if isinstance(outcome, Failed):
        return {"id": outcome.job_id, "status": outcome.status, "error": outcome.error}
    result = msgspec.to_builtins(outcome.result, str_keys=True)
    return {**result, "status": outcome.status}
