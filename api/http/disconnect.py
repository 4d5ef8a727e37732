"""Waits for a job on behalf of a call, and notices when the call itself is over."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive

from shared.process.asyncio_tasks import cancel_all

T = TypeVar("T")


class ClientDisconnected(Exception):
    """The client closed the connection."""


class ServerStopping(Exception):
    """This process has been told to stop, and its grace period is over."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a call whose body has been read: wanted are results, until it goes."""

    receive: Receive
    stopping: asyncio.Event

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """See `run_until_disconnect`."""
        return await run_until_disconnect(work, self.receive, self.stopping)


async def run_until_disconnect(
    work: Coroutine[Any, Any, T], receive: Receive, stopping: asyncio.Event
) -> T:
    """The result of `work`, which is cancelled when the caller goes or the server stops.

    Needs the request's body to have been read. Raises ClientDisconnected or ServerStopping.
    """
    return await _unless(
        work, {ClientDisconnected(): disconnected(receive), ServerStopping(): stopping.wait()}
    )


async def until_stopping(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T:
    """The result of `work`, which is cancelled when the server stops; raises ServerStopping."""
    return await _unless(work, {ServerStopping(): stopping.wait()})


async def _unless(
    work: Coroutine[Any, Any, T], ends: dict[Exception, Coroutine[Any, Any, object]]
) -> T:
    """The result of `work`, or the error whose coroutine came first; all are over afterwards."""
    task = asyncio.create_task(work)
    watchers = {asyncio.create_task(end): error for error, end in ends.items()}
    try:
        await asyncio.wait({task, *watchers}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise next(error for watcher, error in watchers.items() if watcher.done())
    finally:
        await cancel_all((task, *watchers))


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
