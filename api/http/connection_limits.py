"""uvicorn's HTTP/1.1 on h11, with a time limit for heads and answers to half-closed connections.

h11 bounds heads and trailers in bytes, `api/http/body.py` bounds bodies. Knows no route.
"""

import asyncio
import re
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.schemas import ErrorBody

MAX_HEAD_BYTES = 65_536  # also of trailers, and of requests that wait behind another
HEAD_TIMEOUT_S = 20.0  # for a head, and for the rest of a body that was answered early
UNREAD_S = 60.0  # in which a client must take some of the data that waits for it
EMPTY_LINES = re.compile(rb"(?:\r?\n)+")  # servers skip them before a request (RFC 9112, 2.2)
STATUS_LINE = b"HTTP/1.1 "  # the first bytes of every answer
CHUNKED = b"transfer-encoding: chunked\r\n"
MOST_ZEROS = b"0" * 8  # curl takes 16 digits of a chunk size, h11 20
PROBE_S = 0.1  # between the first two probes; the delay then grows
PROBE_GROWTH = 3


class Connection(h11.Connection):
    """Adds probes to h11: bytes that fit any answer, sent before the answer is known."""

    _num_probes = 0  # since the last piece of an answer
    _is_head = False
    _is_chunked = False

    def probe(self) -> bytes:
        """Return the next byte of the answer, or nothing where the answer decides it.

        Before the answer, that is a byte of "HTTP/1.1 ". Between two chunks, it is a leading zero
        of the next one's size.
        """
        ahead = b""
        if self.our_state is h11.SEND_RESPONSE:
            ahead = STATUS_LINE
        elif self.our_state is h11.SEND_BODY and self._is_chunked:
            ahead = MOST_ZEROS
        byte = ahead[self._num_probes : self._num_probes + 1]
        self._num_probes += len(byte)
        return byte

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Omit what probes have sent of a status line."""
        pieces = super().send_with_data_passthrough(event)
        if pieces and isinstance(event, h11.Response | h11.InformationalResponse):
            pieces[0] = pieces[0][self._num_probes :]
            is_chunked = any(piece.lower() == CHUNKED for piece in pieces)
            self._is_chunked = is_chunked and not self._is_head
        if pieces:
            self._num_probes = 0
        return pieces

    def next_event(self) -> Any:
        """Add to h11's what RFC 9112 asks of servers: see `checked`, and skipped empty lines."""
        if self.their_state is h11.IDLE and (empty := EMPTY_LINES.match(self.trailing_data[0])):
            self._receive_buffer.maybe_extract_at_most(empty.end())  # all at once: it copies
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._is_head = event.method == b"HEAD"
            return checked(event)
        return event


def checked(request: h11.Request) -> h11.Request:
    """Reduce an absolute target to its path; raise RemoteProtocolError for a body of two lengths.

    Proxies that choose the other length would take the rest of the body for a request.
    """
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
        raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
    if not request.target.startswith((b"http://", b"https://")):
        return request
    return h11.Request(
        method=request.method,
        target=b"/" + request.target.partition(b"://")[2].partition(b"/")[2],
        headers=request.headers,
        http_version=request.http_version,
    )


class LimitedHttpProtocol(H11Protocol):
    """One connection. Its timer bounds the wait for a head, or paces probes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: Connection = Connection(h11.SERVER, MAX_HEAD_BYTES)
        self._timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limit_unread(transport)
        self._start_timer(HEAD_TIMEOUT_S, self._end_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._stop_timer()
            self._keep_reading()
        elif self._timer is None:
            self._start_timer(HEAD_TIMEOUT_S, self._end_slow_head)

    def eof_received(self) -> Any:  # uvicorn's never answers anything
        """Keep the connection while the client may wait for an answer.

        A client that only closed its writing side and one that left look the same here. Probes
        tell: the system of a client that left resets the connection, and a later write fails.
        """
        if not self._is_answering() or self.cycle.more_body:
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self._probe(PROBE_S)
        return True

    def on_response_complete(self) -> None:
        """Close a half-closed connection after the answer to its last request."""
        super().on_response_complete()
        if self._is_half_closed and not self._is_answering():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, or a head or trailer that is too long."""
        if len(self.conn.trailing_data[0]) > MAX_HEAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"headers: must be at most {MAX_HEAD_BYTES} bytes",
            )
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "request: must be valid HTTP/1.1")

    def _should_upgrade(self) -> bool:
        """Ignore every offer of another protocol, as RFC 9110 (7.8) allows, without a warning."""
        return False

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _keep_reading(self) -> None:
        """Read on behind a complete request, to notice the end of the connection.

        uvicorn stops there, as soon as another request or an upgrade offer follows.
        """
        if not self.cycle.more_body and len(self.conn.trailing_data[0]) <= MAX_HEAD_BYTES:
            self.flow.resume_reading()

    def _probe(self, delay_s: float) -> None:
        self.transport.write(self.conn.probe())
        self._start_timer(delay_s, lambda: self._probe(delay_s * PROBE_GROWTH))

    def _start_timer(self, delay_s: float, on_end: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(delay_s, on_end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_slow_head(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, f"headers: must arrive within {HEAD_TIMEOUT_S:g} s"
            )
        self.transport.close()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer, unless another answer has begun, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = msgspec.json.encode(ErrorBody(detail))
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            head = h11.Response(status_code=status, reason=status.phrase, headers=headers)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        if self._is_answering():
            self.cycle.disconnected = True  # the application must not answer, too
            self.cycle.message_event.set()
        self.transport.close()


def limit_unread(transport: asyncio.Transport) -> None:
    """End the connection when its client takes nothing of its data for a while.

    The job of a call that ends so is cancelled. Linux alone can do it.
    """
    if sys.platform == "linux":
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * UNREAD_S))
