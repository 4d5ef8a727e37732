"""A job as server-sent events: its text as it comes, then one terminal event."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.client import ChatClient
from api.errors import stopping_message
from api.repeats import Repeats
from api.ticket import Ticket
from api.waiting import CallerGone, ServerStopping, while_connected
from shared.errors import HTTP_STATUS, ServiceUnavailable
from shared.protocol import Delta, Failed, JobError, JobStatus, Outcome

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
        self._events = EventStream(ticket, with_token_ids=with_token_ids)
        self._is_kept = is_kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        with self._ticket:
            await send(start)
            try:
                await while_connected(self._send_events(send), receive, self._stopping)
            except CallerGone:
                if not self._is_kept:
                    await self._client.cancel_abandoned(self._ticket.job_id)
            except ServerStopping:
                await send({"type": "http.response.body", "body": self._events.farewell()})

    async def _send_events(self, send: Send) -> None:
        async for chunk in self._events.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EventStream:
    """What one call hears of its job, each piece once; ids count what it was told."""

    def __init__(self, ticket: Ticket, *, with_token_ids: bool) -> None:
        self._ticket = ticket
        self._with_token_ids = with_token_ids
        self._repeats = Repeats()
        self._num_told = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Up to the terminal event; a comment now and then keeps a quiet connection awake."""
        while True:
            event = await self._ticket.next_event(KEEP_ALIVE_S)
            if event is None:
                yield KEEP_ALIVE
            elif not isinstance(event, Delta):
                yield self._tell(terminal_body(event))
                return
            elif self._repeats.is_new(event):
                yield self._tell(delta_body(event, with_token_ids=self._with_token_ids))

    def farewell(self) -> bytes:
        """The last event of a server that stops: where the job can be found."""
        message = stopping_message(self._ticket.job_id)
        error = JobError(message=message, status_code=HTTP_STATUS[ServiceUnavailable])
        body = {"id": self._ticket.job_id, "status": JobStatus.RUNNING, "error": error}
        return self._tell(body)

    def _tell(self, body: dict[str, Any]) -> bytes:
        index = self._num_told
        self._num_told += 1
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
