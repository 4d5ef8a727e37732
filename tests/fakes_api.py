"""A service in one process for tests of the api: fake Redis, echo worker, ASGI client.

It imports no torch, so that tests of the api run without it.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import uvicorn
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import FastAPI
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message

from api.app import asgi_app, create_app, lifespan
from api.services import Services
from api.settings import ApiSettings
from shared.protocol import WorkerInfo
from shared.queue.keys import WORKER_TTL_S, Keys
from shared.registry.worker_registry import Registry
from tests.echo_worker import EchoWorker, letter_card, letter_tokenizer
from tests.factories import make_worker_info


async def keep_reporting(service: "FakeService") -> None:
    while True:
        await asyncio.sleep(WORKER_TTL_S / 3)
        await service.services.redis.models[0].registry.report(service.info)


async def serve_adapters(service: "FakeService") -> None:
    """Report that the worker serves each new set of adapters that are loaded at run time."""
    while True:
        generation = (await service.services.redis.models[0].adapters.read()).generation
        service.info = msgspec.structs.replace(
            service.info, loads_adapters=True, adapter_generation=generation
        )
        await service.services.redis.models[0].registry.report(service.info)
        await asyncio.sleep(0.02)


@dataclass
class FakeService:
    """An api in this process on a fake Redis, with or without a worker."""

    app: FastAPI
    asgi: ASGIApp  # the application that a server runs
    http: httpx.AsyncClient
    server: FakeServer
    redis: Redis
    keys: Keys
    worker: EchoWorker
    info: WorkerInfo = field(default_factory=lambda: make_worker_info("echo"))
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def services(self) -> Services:
        services = self.app.state.services
        assert isinstance(services, Services)
        return services

    async def until(self, condition: Callable[[], object]) -> None:
        """Run the service until `condition` holds; fail after half a minute."""
        for _ in range(3000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the condition did not hold in time")

    async def until_queued(self, count: int) -> None:
        for _ in range(3000):
            if await self.num_queued() == count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{await self.num_queued()} jobs are queued, not {count}")

    async def num_queued(self) -> int:
        return int(await self.redis.zcard(self.keys.queue))

    async def start_worker(self) -> None:
        """Register model and worker, and wait until the api has the model card."""
        registry = Registry(self.redis, self.keys)
        card_hash = await registry.publish_card(letter_card(), letter_tokenizer().to_str().encode())
        self.info = make_worker_info("echo", card_hash=card_hash)
        await registry.report(self.info)
        await self.services.models.first.watcher.refresh()
        self.tasks.append(asyncio.create_task(self.worker.run()))
        self.tasks.append(asyncio.create_task(keep_reporting(self)))

    async def stop_worker(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def abandoned_call(
    app: ASGIApp,
    body: dict[str, Any],
    leave: asyncio.Event,
    headers: Mapping[str, str] | None = None,
    path: str = "/chat",
) -> list[Message]:
    """Send `POST` to `path`, disconnect once `leave` is set, and return the response's messages."""
    sent: list[Message] = []
    requests = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Message:
        for message in requests:
            return message
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("api", 80),
    }
    await app(scope, receive, send)
    return sent


@asynccontextmanager
async def fake_service(
    settings: ApiSettings | None = None,
    *,
    with_worker: bool = True,
    server: FakeServer | None = None,
) -> AsyncIterator[FakeService]:
    """Run an api on `server`, or on a fake Redis of its own."""
    server = server or FakeServer()

    def connect(url: str, *, name: str, block_s: float = 0.0) -> Redis:
        return FakeAsyncRedis(server=server)

    settings = settings or ApiSettings()
    app = create_app(settings, connect)
    asgi = asgi_app(app, settings)
    redis, keys = FakeAsyncRedis(server=server), Keys()
    transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        service = FakeService(app, asgi, http, server, redis, keys, EchoWorker(redis, keys))
        if with_worker:
            await service.start_worker()
        try:
            yield service
        finally:
            await service.stop_worker()
            await redis.aclose()


@contextmanager
def served_api() -> Iterator[str]:
    """Serve the fake service on a free loopback port, and yield its address."""
    ready, done = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=asyncio.run, args=[_serve(listener, ready, done)])
        thread.start()
        try:
            assert ready.wait(30), "the api did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            thread.join(30)


async def _serve(listener: socket.socket, ready: threading.Event, done: threading.Event) -> None:
    async with fake_service() as service:
        service.tasks.append(asyncio.create_task(serve_adapters(service)))
        config = uvicorn.Config(service.asgi, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        ready.set()
        await asyncio.to_thread(done.wait)
        server.should_exit = True
        await serving
