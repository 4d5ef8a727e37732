"""Extend uvicorn's HTTP/1.1: limit the time for heads, and respond to half-closed connections.

Settings of uvicorn and of the listening socket give the other limits: see `api/server.py`.
"""

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 65_536  # trailers have the same limit
HEAD_TIMEOUT_S = 20.0  # the rest of a rejected body has the same limit

PROBE_S = 0.1  # between the first two probes
PROBE_GROWTH = 3  # factor of each further delay

# Bytes that may be sent before the response is known. A chunk size may have 16 digits in curl.
STATUS_LINE = b"HTTP/1.1 "
ZEROS = b"0" * 8


class ProbingConnection(h11.Connection):
    """Send bytes of a response early: a disconnected client's kernel resets the connection."""

    _ahead = STATUS_LINE  # the next bytes to send, which every response continues with
    _is_chunked = False

    def probe(self) -> bytes:
        byte, self._ahead = self._ahead[:1], self._ahead[1:]
        return byte

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Return the bytes of an event, except for the bytes that probes have sent."""
        parts = super().send_with_data_passthrough(event)
        if parts and isinstance(event, h11.Response | h11.InformationalResponse):
            parts[0] = parts[0][len(STATUS_LINE) - len(self._ahead) :]
            self._is_chunked = b"\r\ntransfer-encoding: chunked\r\n" in b"".join(parts).lower()
        between_chunks = ZEROS if self._is_chunked else b""
        self._ahead = between_chunks if self.our_state is h11.SEND_BODY else STATUS_LINE
        return parts


class LimitedHttpProtocol(H11Protocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: ProbingConnection = ProbingConnection(h11.SERVER, MAX_HEAD_BYTES)
        self._is_half_closed = False
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_responding():
            self._head_timer.cancel()
        elif self._head_timer.cancelled():
            self._start_head_timer()

    def eof_received(self) -> Any:
        """Keep the connection while the client may wait for a response, and probe it."""
        if not self._is_responding() or self.cycle.more_body:
            return False
        self._is_half_closed = True
        self._probe(PROBE_S)
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_half_closed and not self._is_responding():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Respond unless the application has: uvicorn logs a stack trace for a second response."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.close()
        if self._is_responding():
            self.cycle.disconnected = True

    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)

    def _probe(self, delay_s: float) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.conn.probe())
            self.loop.call_later(delay_s, self._probe, delay_s * PROBE_GROWTH)
