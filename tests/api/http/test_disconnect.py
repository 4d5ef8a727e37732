"""A call that is over stops waiting, whatever its work makes of being cancelled."""

import asyncio

import pytest
from starlette.types import Message

from api.errors import ClientDisconnected, ServerStopping
from api.http.disconnect import Client

WAIT_S = 30.0


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def there() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def stubborn() -> None:
    """Swallows its first cancellation, as redis-py now and then does while it connects."""
    for _ in range(2):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


async def test_a_call_whose_caller_is_gone_ends_though_its_work_ignores_that() -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ClientDisconnected):
            await Client(gone, asyncio.Event()).run_until_disconnect(stubborn())


async def test_a_call_to_a_server_that_stops_ends_though_its_work_ignores_that() -> None:
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ServerStopping):
            await Client(there, stopping).run_until_disconnect(stubborn())


async def test_a_result_that_is_there_is_not_lost_to_a_caller_that_is_gone() -> None:
    async def result() -> int:
        return 7

    assert await Client(gone, asyncio.Event()).run_until_disconnect(result()) == 7
