"""The connections of both clients: they send the requests of calls, and wait before them.

Each stream has a connection of its own, and so has each wait of a thread. The waits of asyncio,
which may be many, take turns at a limited number of long polls.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import httpx

from falconer.client.calls import MAX_POLLS, Answer, ApiRequest, Call, Calls

T = TypeVar("T")
Part = TypeVar("Part")
PartIn = TypeVar("PartIn", contravariant=True)
ItemOut = TypeVar("ItemOut", covariant=True)

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=MAX_POLLS)


class Transfer(Protocol[PartIn, ItemOut]):
    """What any number of connections deliver in parts, without I/O."""

    def next_request(self) -> ApiRequest | None:
        """Return the request for the rest; None if there is none."""

    def connection_opened(self) -> None: ...

    def take(self, part: PartIn) -> ItemOut | None:
        """Return what is new in a part, if anything."""

    def connection_ended(self, answer: Answer) -> None:
        """Plan the next connection, if there must be one. Raises ApiError."""


@dataclass(frozen=True, slots=True)
class Connection:
    http: httpx.Client
    calls: Calls

    def run(self, call: Call[T]) -> T:
        """Run a call to its end, and return its result."""
        with closing(call):
            try:
                request = next(call)
                while True:
                    request = call.send(self._answer(request))
            except StopIteration as end:
                result: T = end.value
                return result

    def _answer(self, request: ApiRequest) -> Answer:
        time.sleep(request.pause_s)
        try:
            return self.http.request(**request.arguments)
        except httpx.TransportError as error:
            return error

    def follow(
        self, transfer: Transfer[Part, T], parts_of: Callable[[httpx.Response], Iterator[Part]]
    ) -> Iterator[T]:
        """Yield what a transfer takes, and connect again until it is complete."""
        while (request := transfer.next_request()) is not None:
            time.sleep(request.pause_s)
            try:
                with self.http.stream(**request.arguments) as answer:
                    if answer.status_code == httpx.codes.OK:
                        transfer.connection_opened()
                        for part in parts_of(answer):
                            if (item := transfer.take(part)) is not None:
                                yield item
                    else:
                        answer.read()
            except httpx.TransportError as error:
                transfer.connection_ended(error)
            else:
                transfer.connection_ended(answer)


@dataclass(frozen=True, slots=True)
class AsyncConnection:
    http: httpx.AsyncClient
    calls: Calls
    _polls: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_POLLS))

    async def run(self, call: Call[T]) -> T:
        """Run a call to its end, and return its result."""
        with closing(call):
            try:
                request = next(call)
                while True:
                    request = call.send(await self._answer(request))
            except StopIteration as end:
                result: T = end.value
                return result

    async def _answer(self, request: ApiRequest) -> Answer:
        await asyncio.sleep(request.pause_s)
        async with AsyncExitStack() as stack:
            try:
                if request.turn_s is not None:
                    async with asyncio.timeout(request.turn_s):
                        await stack.enter_async_context(self._polls)
                return await self.http.request(**request.arguments)
            except TimeoutError:
                return httpx.PoolTimeout("no long poll of the client had time for this one")
            except httpx.TransportError as error:
                return error

    async def follow(
        self, transfer: Transfer[Part, T], parts_of: Callable[[httpx.Response], AsyncIterator[Part]]
    ) -> AsyncIterator[T]:
        """Yield what a transfer takes, and connect again until it is complete."""
        while (request := transfer.next_request()) is not None:
            await asyncio.sleep(request.pause_s)
            try:
                async with self.http.stream(**request.arguments) as answer:
                    if answer.status_code == httpx.codes.OK:
                        transfer.connection_opened()
                        async for part in parts_of(answer):
                            if (item := transfer.take(part)) is not None:
                                yield item
                    else:
                        await answer.aread()
            except httpx.TransportError as error:
                transfer.connection_ended(error)
            else:
                transfer.connection_ended(answer)
