"""A job as server-sent events: its text as it comes, then one terminal event."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.client import ChatClient
from api.ticket import Ticket
from api.waiting import CallerGone, ServerStopping, while_connected
from shared.protocol import Delta, Failed, JobStatus, Outcome

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"


class EventStreamResponse(Response):
    """Owns its ticket; a caller that goes away takes the job with it, unless it `is_kept`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        client: ChatClient,
        ticket: Ticket,
        stopping: asyncio.Event,
        *,
        with_token_ids: bool,
        is_kept: bool,
    ) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "Location": f"/jobs/{ticket.job_id}",
            },
        )
        del self.headers["content-length"]
        self._client = client
        self._ticket = ticket
        self._stopping = stopping
        self._with_token_ids = with_token_ids
        self._is_kept = is_kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ticket:
            try:
                await while_connected(self._send_events(send), receive, self._stopping)
            except CallerGone:
                if not self._is_kept:
                    await self._client.cancel_abandoned(self._ticket.job_id)
            except ServerStopping:
                await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for chunk in event_stream(self._ticket, with_token_ids=self._with_token_ids):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def event_stream(ticket: Ticket, *, with_token_ids: bool) -> AsyncIterator[bytes]:
    """Each index once: a job that runs again repeats its first deltas."""
    next_index = 0
    while True:
        event = await ticket.next_event(KEEP_ALIVE_S)
        if event is None:
            yield KEEP_ALIVE
        elif not isinstance(event, Delta):
            yield encode_event(next_index, terminal_body(event))
            return
        elif event.index >= next_index:
            yield encode_event(event.index, delta_body(event, with_token_ids=with_token_ids))
            next_index = event.index + 1


def encode_event(index: int, body: dict[str, Any]) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (index, msgspec.json.encode(body))


def delta_body(delta: Delta, *, with_token_ids: bool) -> dict[str, Any]:
    body = {"sequence": delta.sequence, "delta": delta.text}
    return body | {"token_ids": delta.token_ids} if with_token_ids else body


def terminal_body(outcome: Outcome) -> dict[str, Any]:
    """The 200 body with a status, or the status with an error."""
    if isinstance(outcome, Failed):
        return {"id": outcome.job_id, "status": outcome.status, "error": outcome.error}
    result = msgspec.to_builtins(outcome.result, str_keys=True)
    return {**result, "status": JobStatus.SUCCEEDED}
