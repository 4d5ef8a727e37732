"""Waiting for a while, and ending asyncio tasks for certain."""

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any

RETRY_S = 0.1


async def wait_at_most(seconds: float, happening: Awaitable[object]) -> None:
    """Until it has happened, or for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await happening


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until every task has ended; their errors are not raised.

    Once is not enough: redis-py 5.3 now and then swallows a cancellation that meets it while
    connecting (about one in three in a tight test on Python 3.11).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=RETRY_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # seen, so that asyncio does not report it
