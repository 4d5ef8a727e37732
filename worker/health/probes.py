"""Serve a worker's liveness, readiness and metrics over HTTP.

Runs on the worker's event loop: if the loop is stuck, no probe is answered.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.redis.retry import cause_of
from worker.health.metrics import WorkerMetrics

READY_TIMEOUT_S = 1.0


class Probes:
    """The HTTP application of one worker."""

    def __init__(
        self,
        metrics: WorkerMetrics,
        is_alive: Callable[[], bool],
        is_ready: Callable[[], Awaitable[bool]],
    ) -> None:
        """Serve `is_alive` (engine steps end in time) and `is_ready` (Redis lists the worker)."""
        self._metrics = metrics
        self._is_alive = is_alive
        self._is_ready = is_ready

    async def run(self, listener: socket.socket) -> None:
        """Serve on a bound socket until cancelled."""
        config = uvicorn.Config(
            self.app(),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await serving

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/livez", self._live),
                Route("/readyz", self._ready),
                Route("/metrics", self._export_metrics),
            ]
        )

    async def _live(self, request: Request) -> Response:
        if self._is_alive():
            return JSONResponse({"status": "alive"})
        return JSONResponse(
            {"detail": "an engine step has taken longer than --step-timeout-s"}, 503
        )

    async def _ready(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                is_ready = await self._is_ready()
        except (RedisError, OSError) as error:
            return JSONResponse({"detail": cause_of(error)}, 503)
        if is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"detail": "not registered yet"}, 503)

    async def _export_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker: uvicorn would stop the probes before the jobs."""
        yield
