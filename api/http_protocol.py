"""uvicorn's HTTP/1.1 with bounds on what a caller may send beside a body, in bytes and in time.

Bodies that a route reads are bounded in `api/body.py`. Knows no route.
"""

import asyncio
import fcntl
import termios
from collections.abc import Callable
from http import HTTPStatus
from struct import Struct
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.schemas import ErrorBody

MAX_HEAD_BYTES = 65_536  # also of trailers, and of all else that is no body
MAX_WAITING = 8  # calls behind another on their connection, before it is read no further
HEAD_TIMEOUT_S = 20.0
LINGER_S = 10.0  # for the rest of a body that was answered before it ended
UNREAD_S = 60.0  # in which a caller reads this many bytes, or all there is, of what waits for it
MIN_READ_BYTES = 65_536
INT = Struct("i")


class BoundedHttp(HttpToolsProtocol):
    """One connection. Its timer runs while nobody but this class waits for the caller."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_pending = 0  # bytes since the last complete head or piece of a body
        self._cycles: list[RequestResponseCycle] = []  # not answered in full; uvicorn's is the last
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None  # runs while writing is paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer(HEAD_TIMEOUT_S, transport.close)  # nobody asked anything yet

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._num_pending += len(data)
        super().data_received(data)
        if self._num_pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"headers: should be at most {MAX_HEAD_BYTES} bytes",
            )
        self._keep_idle_alive()
        self._keep_reading()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start_timer(HEAD_TIMEOUT_S, self._refuse_slow_head)

    def on_headers_complete(self) -> None:
        self._num_pending = 0
        self._stop_timer()
        super().on_headers_complete()
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._num_pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_pending = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The rest of the body is thrown away. To close now could cost the caller the answer."""
        super().on_response_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        if self.cycle.response_complete and self.cycle.more_body:
            self._start_timer(LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        """The caller does not read, or slowly: whoever writes to it waits from now on."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _await_reader(self) -> None:
        self._unread_timer = self.loop.call_later(UNREAD_S, self._end_if_unread, self._unread())

    def _unread(self) -> int:
        """Bytes that the caller has yet to take, the kernel's among them: Linux holds a megabyte
        or more, and asks for none of ours before much of that is gone. Others do not tell."""
        sock = self.transport.get_extra_info("socket")
        try:
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(INT.size))
        except OSError:
            queued = bytes(INT.size)
        return self.transport.get_write_buffer_size() + int(INT.unpack(queued)[0])

    def _end_if_unread(self, unread: int) -> None:
        """To the call that writes it is as if the caller had gone. Closing would wait for it."""
        if unread - self._unread() < MIN_READ_BYTES:
            self.transport.abort()
        else:
            self._await_reader()

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _keep_idle_alive(self) -> None:
        """uvicorn ends its wait for the next call at any bytes, be they the start of none.

        Such as a body that came after its answer, or a stray end of line.
        """
        if self.cycle is not None and self.cycle.response_complete and self._timer is None:
            self._start_timer(self.timeout_keep_alive, self.transport.close)

    def _keep_reading(self) -> None:
        """uvicorn reads nothing behind a call that waits for its turn: nor that the caller left.

        Nor do we behind many, or a large body: it is their connection that would hold them all.
        """
        if 0 < len(self.pipeline) <= MAX_WAITING and len(self.cycle.body) <= MAX_HEAD_BYTES:
            self.flow.resume_reading()

    def _start_timer(self, delay_s: float, on_end: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(delay_s, on_end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_slow_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT, f"headers: did not arrive within {HEAD_TIMEOUT_S:g} s"
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer, unless another answer is under way, and close."""
        if self.cycle is None or self.cycle.response_complete:
            body = msgspec.json.encode(ErrorBody(detail))
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
