"""An ASGI application behind the api's own HTTP server, in the loop of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from api.http.connection_limits import LimitedHttpProtocol
from api.server import UNREAD_S, limit_unread_time


@asynccontextmanager
async def serving(
    app: ASGIApp, *, unread_s: float = UNREAD_S, **options: Any
) -> AsyncIterator[tuple[str, int]]:
    """Serve on a free loopback port, with uvicorn's `options`; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit_unread_time(listener, unread_s)
        config = uvicorn.Config(
            app,
            http=LimitedHttpProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            **options,
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client with one connection to the server."""
    limits = httpx.Limits(max_connections=1)
    async with (
        serving(app) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", limits=limits, timeout=60) as client,
    ):
        yield client
