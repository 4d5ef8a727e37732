"""Run work for a request until its client disconnects or the server shuts down."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive

from api.http.errors import ClientDisconnected, ServerStopping
from shared.process.asyncio_tasks import cancel_all

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """The client of a request, after its body has been read."""

    receive: Receive
    stopping: asyncio.Event  # set when the server ends the requests that are still open

    async def run_until_disconnect(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`; cancel it when the client disconnects or the server stops.

        Raises ClientDisconnected and ServerStopping.
        """
        return await _run_until(
            (self._disconnect(), ClientDisconnected()),
            (self.stopping.wait(), ServerStopping()),
            work=work,
        )

    async def _disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def run_until_stopping(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T:
    """Return the result of `work`; cancel it and raise ServerStopping when the server stops."""
    return await _run_until((stopping.wait(), ServerStopping()), work=work)


async def _run_until(
    *ends: tuple[Coroutine[Any, Any, object], Exception], work: Coroutine[Any, Any, T]
) -> T:
    """Return the result of `work`, or raise the error of the first end. Cancel all the others."""
    task = asyncio.create_task(work)
    watchers = {asyncio.create_task(end): error for end, error in ends}
    try:
        await asyncio.wait({task, *watchers}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise next(error for watcher, error in watchers.items() if watcher.done())
    finally:
        await cancel_all((task, *watchers))
