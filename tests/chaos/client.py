"""A careful HTTP client: tries again as the API says one may, and writes everything down."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from tests.chaos.connections import new_http
from tests.chaos.history import Mishap, Story, Try

PATIENCE_S = 240.0  # a caller that has got nowhere for so long gives up: a violation
BOUND_S = 20.0  # an answer that waits for nothing comes sooner, on a slow machine too
PAUSE_S = 0.3  # before a connection that was refused is tried elsewhere
MAX_DETAIL = 120
UNKNOWN_WHEN = (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError, httpx.CloseError)


class Lost(Exception):
    """The connection broke, and sending it again could make a second job."""


class GaveUp(Exception):
    """The service did not let the caller go on."""


class Refused(Exception):
    """Nobody listens there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is what its JSON says, None if it is none; under way from `began` to `ended`."""

    status: int
    headers: Mapping[str, str]
    body: Any
    began: float
    ended: float

    @property
    def job_id(self) -> str | None:
        """Of a job that exists, whatever else the answer says."""
        return self.body.get("id") if isinstance(self.body, dict) else None

    @property
    def is_put_off(self) -> bool:
        """The service is away and has accepted nothing: come again later."""
        return self.status == 503 and self.job_id is None

    @property
    def retry_after_s(self) -> float:
        return float(self.headers.get("Retry-After", "1"))


@dataclass(frozen=True, slots=True)
class Call:
    """What to send; `is_repeatable`: sending it twice does no harm."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] | None = None
    bound_s: float = BOUND_S
    is_repeatable: bool = True

    @classmethod
    def get(cls, path: str, bound_s: float = BOUND_S) -> "Call":
        return cls("GET", path, bound_s=bound_s)

    @classmethod
    def post(
        cls, path: str, body: Any, headers: Mapping[str, str], bound_s: float = BOUND_S
    ) -> "Call":
        """Repeatable with an idempotency key only."""
        return cls(
            "POST",
            path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **headers},
            bound_s,
            is_repeatable="Idempotency-Key" in headers,
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Client:
    """Any replica will do for any call; which one is drawn."""

    def __init__(self, urls: dict[str, str], random: Random) -> None:
        self._urls = urls
        self._random = random
        self._http = new_http(timeout_s=None)  # each call has its own

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, story: Story, call: Call) -> Answer:
        """The first answer that is not "try again"; raises Lost or GaveUp."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await self._attempt(story, call)) is None:
                    pass
                return answer
        except TimeoutError:
            raise GaveUp(f"{call}: no success within {PATIENCE_S:g} s") from None

    async def _attempt(self, story: Story, call: Call) -> Answer | None:
        """None: not now; waits as long as was asked for before it says so."""
        try:
            began = time.monotonic()
            async with self.opened(story, call) as response:
                answer = await read_answer(response, began)
            if not answer.is_put_off:
                return answer
            await asyncio.sleep(answer.retry_after_s)
        except Refused:
            await asyncio.sleep(PAUSE_S)
        except Lost:
            if not call.is_repeatable:
                raise
            await asyncio.sleep(PAUSE_S)
        return None

    @asynccontextmanager
    async def opened(self, story: Story, call: Call) -> AsyncIterator[httpx.Response]:
        """One try at a drawn replica; raises Refused, or Lost if the connection ends too soon."""
        replica = self._random.choice(list(self._urls))
        began = time.monotonic()
        note = _Note(story, replica, str(call), began)
        request = self._http.build_request(
            call.method,
            self._urls[replica] + call.path,
            content=call.content,
            headers=dict(call.headers or {}),
            timeout=httpx.Timeout(call.bound_s),
        )
        response = None
        try:
            async with asyncio.timeout(call.bound_s):
                response = await self._http.send(request, stream=True)
                yield response
            note.answered(response)
        except asyncio.CancelledError:
            note.mishap(Mishap.LEFT)
            raise
        except httpx.ConnectError as error:
            note.mishap(Mishap.REFUSED)
            raise Refused from error
        except UNKNOWN_WHEN as error:
            note.mishap(Mishap.BROKEN, f"{type(error).__name__}: {error}")
            raise Lost from error
        except (TimeoutError, httpx.TimeoutException) as error:
            note.mishap(Mishap.HUNG)
            raise Lost from error
        finally:
            if response is not None:
                await response.aclose()


@dataclass(slots=True)
class _Note:
    """Writes the try into the story once it is known how it went."""

    story: Story
    replica: str
    what: str
    began: float

    def answered(self, response: httpx.Response) -> None:
        is_refusal = response.status_code >= 400 and response.is_stream_consumed
        self._write(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            detail=response.text[:MAX_DETAIL] if is_refusal else "",
        )

    def mishap(self, mishap: Mishap, detail: str = "") -> None:
        self._write(mishap=mishap, detail=detail[:MAX_DETAIL])

    def _write(self, **how: Any) -> None:
        ended = time.monotonic()
        self.story.tries.append(Try(self.replica, self.what, self.began, ended, **how))


async def read_answer(response: httpx.Response, began: float) -> Answer:
    content = await response.aread()
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    return Answer(response.status_code, response.headers, body, began, time.monotonic())
