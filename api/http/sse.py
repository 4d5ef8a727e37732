"""A job as server-sent events: its text as it comes, then one terminal event."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import stopping_message
from api.http.disconnect import ClientDisconnected, ServerStopping, run_until_disconnect
from api.http.paths import job_path
from api.jobs.delta_stream import DeltaStream, Piece
from api.jobs.job_client import ChatClient
from api.jobs.job_handle import JobHandle
from shared.errors import HTTP_STATUS, ServiceUnavailable
from shared.protocol import Delta, Failed, JobError, JobStatus, Outcome

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"

# Characters at which Python's `str.splitlines` cuts, and with it httpx and requests. JSON itself
# escapes the others: all of them are below U+0020.
LINE_SEPARATORS = {char.encode(): b"\\u%04x" % ord(char) for char in "\x85\u2028\u2029"}


class EventStreamResponse(Response):
    """Owns its ticket, and tells the job from delta `start` on.

    A caller that goes away takes the job with it, unless it `is_kept`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        client: ChatClient,
        ticket: JobHandle,
        stopping: asyncio.Event,
        *,
        is_kept: bool,
        start: int = 0,
    ) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            },
        )
        del self.headers["content-length"]
        self._client = client
        self._ticket = ticket
        self._stopping = stopping
        self._events = EventStream(ticket, start)
        self._is_kept = is_kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Location"] = job_path(scope, self._ticket.job_id)
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        with self._ticket:
            await send(start)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                await run_until_disconnect(self._send_events(send), receive, self._stopping)
            except ClientDisconnected:
                if not self._is_kept:
                    await self._client.cancel_abandoned(self._ticket.job_id)
            except ServerStopping:
                await send({"type": "http.response.body", "body": self._events.farewell()})

    async def _send_events(self, send: Send) -> None:
        async for chunk in self._events.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EventStream:
    """The bytes that one call gets."""

    def __init__(self, ticket: JobHandle, start: int) -> None:
        self._ticket = ticket
        self._transcript = DeltaStream(ticket, start)
        self._text_told_at: float | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Up to the terminal event; a comment now and then keeps a quiet connection awake."""
        told_at = time.monotonic()
        async for piece in self._transcript.pieces():
            if piece is None and time.monotonic() - told_at < KEEP_ALIVE_S:
                continue
            yield KEEP_ALIVE if piece is None else self._tell(piece)
            told_at = time.monotonic()

    def farewell(self) -> bytes:
        """The last event of a server that stops: where the job goes on.

        It has no id: a client that resumes with the last one it saw misses nothing.
        """
        message = stopping_message(self._ticket.job_id)
        error = JobError(message=message, status_code=HTTP_STATUS[ServiceUnavailable])
        return event({"id": self._ticket.job_id, "status": JobStatus.RUNNING, "error": error})

    def _tell(self, piece: Piece) -> bytes:
        id_line = b"id: %d\n" % (self._ticket.first_event_id + piece.index)
        if not isinstance(piece.content, Delta):
            return id_line + event(terminal_body(piece.content))
        self._note_text()
        return id_line + event(delta_body(piece.content))

    def _note_text(self) -> None:
        now = time.monotonic()
        if self._text_told_at is None:
            self._ticket.note_first_token()
        else:
            self._ticket.note_gap(now - self._text_told_at)
        self._text_told_at = now


def event(body: dict[str, Any]) -> bytes:
    """Encode one event. Its data is ASCII where clients that read by lines would cut it."""
    data = msgspec.json.encode(body)
    for separator, escape in LINE_SEPARATORS.items():
        data = data.replace(separator, escape)
    return b"data: %b\n\n" % data


def delta_body(delta: Delta) -> dict[str, Any]:
    """A whole sequence of a job that was not streamed has no token ids, unless it was scored."""
    body: dict[str, Any] = {"sequence": delta.sequence, "delta": delta.text}
    return body | {"token_ids": delta.token_ids} if delta.token_ids else body


def terminal_body(outcome: Outcome) -> dict[str, Any]:
    """The 200 body with a status, or the status with an error."""
    if isinstance(outcome, Failed):
        return {"id": outcome.job_id, "status": outcome.status, "error": outcome.error}
    result = msgspec.to_builtins(outcome.result, str_keys=True)
    return {**result, "status": outcome.status}
