"""Waits for a job on behalf of a call, and notices when the call itself is over."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class CallerGone(Exception):
    """The client closed the connection."""


class ServerStopping(Exception):
    """This process has been told to stop, and its grace period is over."""


async def while_connected(
    work: Coroutine[Any, Any, T], receive: Receive, stopping: asyncio.Event
) -> T:
    """The result of `work`, which is cancelled when the caller goes or the server stops.

    Needs the request's body to have been read. Raises CallerGone or ServerStopping.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(receive))
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, gone, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerGone if gone.done() else ServerStopping
    finally:
        for each in (task, gone, stop):
            each.cancel()
        await asyncio.gather(task, gone, stop, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
