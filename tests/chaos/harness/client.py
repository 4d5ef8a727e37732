"""HTTP client that retries as the API permits and logs every attempt."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from tests.chaos.harness.call_log import Attempt, CallLog, TransportError
from tests.chaos.harness.connections import new_http

PATIENCE_S = 240.0  # without success after this time a caller gives up: a violation
TIMEOUT_S = 20.0  # of calls that do not wait for a job; generous for slow machines
PAUSE_S = 0.3  # before a retry after a refused or lost connection
MAX_DETAIL = 120
BROKEN_CONNECTION = (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError, httpx.CloseError)


class ConnectionLost(Exception):
    """The connection broke before the response ended, so the outcome is unknown."""


class RetriesExhausted(Exception):
    """The caller gave up: the service did not answer or finish in time."""


class ConnectionRefused(Exception):
    """No process listens on the address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: Any  # parsed JSON, None for other content
    started: float  # of the request
    ended: float

    @property
    def job_id(self) -> str | None:
        """Return the id of the call's job if the response names one."""
        return self.body.get("id") if isinstance(self.body, dict) else None

    @property
    def must_retry(self) -> bool:
        """Return whether the service was unavailable and accepted no job."""
        return self.status == 503 and self.job_id is None

    @property
    def retry_after_s(self) -> float:
        return float(self.headers.get("Retry-After", "1"))


@dataclass(frozen=True, slots=True)
class Call:
    """A request to send."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] | None = None
    timeout_s: float = TIMEOUT_S
    is_repeatable: bool = True  # a second delivery has no effect

    @classmethod
    def get(cls, path: str, timeout_s: float = TIMEOUT_S) -> "Call":
        return cls("GET", path, timeout_s=timeout_s)

    @classmethod
    def post(
        cls, path: str, body: Any, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S
    ) -> "Call":
        """Return a POST, which is repeatable only with an idempotency key."""
        return cls(
            "POST",
            path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **headers},
            timeout_s,
            is_repeatable="Idempotency-Key" in headers,
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Client:
    """Sends each call to a random replica."""

    def __init__(self, urls: dict[str, str], random: Random) -> None:
        self._urls = urls
        self._random = random
        self._http = new_http(timeout_s=None)  # each call sets its timeout

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, log: CallLog, call: Call) -> Answer:
        """Return the first conclusive response. Raises ConnectionLost or RetriesExhausted."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await self._attempt(log, call)) is None:
                    pass
                return answer
        except TimeoutError:
            raise RetriesExhausted(f"{call}: no success within {PATIENCE_S:g} s") from None

    async def _attempt(self, log: CallLog, call: Call) -> Answer | None:
        """Send once; return None after a pause if the call must be retried."""
        try:
            started = time.monotonic()
            async with self.opened(log, call) as response:
                answer = await read_answer(response, started)
            if not answer.must_retry:
                return answer
            await asyncio.sleep(answer.retry_after_s)
        except ConnectionRefused:
            await asyncio.sleep(PAUSE_S)
        except ConnectionLost:
            if not call.is_repeatable:
                raise
            await asyncio.sleep(PAUSE_S)
        return None

    @asynccontextmanager
    async def opened(self, log: CallLog, call: Call) -> AsyncIterator[httpx.Response]:
        """Send to a random replica and log the attempt.

        Raises ConnectionRefused, or ConnectionLost if the connection breaks or times out.
        """
        replica = self._random.choice(list(self._urls))
        started = time.monotonic()
        attempt = _AttemptLogger(log, replica, str(call), started)
        request = self._http.build_request(
            call.method,
            self._urls[replica] + call.path,
            content=call.content,
            headers=dict(call.headers or {}),
            timeout=httpx.Timeout(call.timeout_s),
        )
        response = None
        try:
            async with asyncio.timeout(call.timeout_s):
                response = await self._http.send(request, stream=True)
                yield response
            attempt.answered(response)
        except asyncio.CancelledError:
            attempt.failed(TransportError.DISCONNECTED)
            raise
        except httpx.ConnectError as error:
            attempt.failed(TransportError.REFUSED)
            raise ConnectionRefused from error
        except BROKEN_CONNECTION as error:
            attempt.failed(TransportError.BROKEN, f"{type(error).__name__}: {error}")
            raise ConnectionLost from error
        except (TimeoutError, httpx.TimeoutException) as error:
            attempt.failed(TransportError.TIMEOUT)
            raise ConnectionLost from error
        finally:
            if response is not None:
                await response.aclose()


@dataclass(slots=True)
class _AttemptLogger:
    """Adds the attempt to the log when its result is known."""

    log: CallLog
    replica: str
    what: str
    started: float

    def answered(self, response: httpx.Response) -> None:
        is_refusal = response.status_code >= 400 and response.is_stream_consumed
        self._write(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            detail=response.text[:MAX_DETAIL] if is_refusal else "",
        )

    def failed(self, error: TransportError, detail: str = "") -> None:
        self._write(error=error, detail=detail[:MAX_DETAIL])

    def _write(self, **result: Any) -> None:
        ended = time.monotonic()
        self.log.attempts.append(Attempt(self.replica, self.what, self.started, ended, **result))


async def read_answer(response: httpx.Response, started: float) -> Answer:
    content = await response.aread()
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    return Answer(response.status_code, response.headers, body, started, time.monotonic())
