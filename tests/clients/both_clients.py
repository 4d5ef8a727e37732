"""Call `falconer.Client` and `falconer.AsyncClient` alike, also over connections that are cut."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import start_blocking_portal

from falconer import AsyncBatch, AsyncClient, AsyncJob, Client
from shared.process.sockets import free_port
from tests.chaos.harness.network_link import NetworkLink

Connect = Callable[..., Any]  # opens a `Client` or a `Blocking`


class Blocking:
    """Calls an asynchronous object from a synchronous test."""

    def __init__(self, target: object, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in ("files", "batches"):
            return Blocking(value, self._runner)
        return partial(self._call, value) if callable(value) else value

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outcome = method(*args, **kwargs)
        if inspect.isasyncgen(outcome):
            return iter(lambda: self._runner.run(item_after(outcome)), None)
        result = self._runner.run(outcome)
        is_handle = isinstance(result, AsyncJob | AsyncBatch)
        return Blocking(result, self._runner) if is_handle else result


async def item_after(items: AsyncIterator[Any]) -> Any:
    return await anext(items, None)


@contextmanager
def clients_of(kind: type[Client] | type[AsyncClient]) -> Iterator[Connect]:
    """Yield a function that opens a client of this class and calls it synchronously."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def opened(*args: Any, **kwargs: Any) -> Any:
            client = kind(*args, **kwargs)
            if isinstance(client, Client):
                return stack.enter_context(client)
            blocking = Blocking(client, runner)
            stack.callback(blocking.aclose)
            return blocking

        yield opened


@contextmanager
def link_that_cuts(url: str, *num_bytes: int) -> Iterator[str]:
    """Yield the address of a link to `url`; check that it has cut so many connections."""
    link = NetworkLink(int(url.rpartition(":")[2]), free_port())
    link.cut_next_after(*num_bytes)
    with start_blocking_portal() as portal:
        portal.call(link.start)
        try:
            yield f"http://127.0.0.1:{link.port}"
        finally:
            portal.call(link.stop)
    assert link.cuts_left == 0
