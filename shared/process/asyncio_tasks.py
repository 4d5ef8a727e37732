"""Wait for a coroutine with a timeout, and cancel asyncio tasks reliably."""

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any

RETRY_S = 0.1


async def wait_at_most(seconds: float, work: Awaitable[object]) -> None:
    """Run `work` for at most `seconds`, then cancel it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until all have ended, and ignore their errors.

    One cancellation is not enough: redis-py 5.3 sometimes swallows it while it connects (one in
    three times in a tight loop on Python 3.11).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=RETRY_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # else asyncio logs that it was never retrieved
