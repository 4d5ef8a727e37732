"""A whole service as processes: Redis, api replicas, workers, and a network link for each."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis

from shared.process.sockets import free_port
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from shared.registry.worker_registry import Registry
from tests.chaos.harness.network_link import NetworkLink
from tests.chaos.harness.service_process import ServiceProcess
from tests.chaos.scenarios.fault_schedule import Fleet
from tests.redis_server import RedisServer

REGISTER_TIMEOUT_S = 60.0
MAX_ATTEMPTS = 50  # a run may kill many workers of one job

Settings = dict[str, object]


@dataclass(slots=True)
class Cluster:
    redis_server: RedisServer
    apis: list[ServiceProcess]
    workers: list[ServiceProcess]
    links: dict[str, NetworkLink]  # by process name
    urls: dict[str, str]  # of the api replicas, by process name
    redis: Redis  # direct connection, not through a link
    keys: Keys = field(default_factory=Keys)

    @property
    def processes(self) -> list[ServiceProcess]:
        return [*self.apis, *self.workers]

    def process(self, name: str) -> ServiceProcess:
        return next(process for process in self.processes if process.name == name)

    @property
    def queue(self) -> JobQueue:
        return JobQueue(self.redis, self.keys)

    @property
    def registry(self) -> Registry:
        return Registry(self.redis, self.keys)

    async def wait_until_registered(self) -> None:
        """Wait until every worker has reported to the registry."""
        wanted = {worker.worker_id for worker in self.workers}
        deadline = time.monotonic() + REGISTER_TIMEOUT_S
        while missing := wanted - {info.id for info in await self.registry.workers()}:
            assert time.monotonic() < deadline, f"not registered: {sorted(missing)}"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running_cluster(
    folder: Path,
    fleet: Fleet,
    *,
    api: Settings | None = None,
    worker: Settings | None = None,
    has_links: bool = True,
) -> AsyncIterator[Cluster]:
    """Start a service, wait until it is ready, and end all of its processes at exit.

    Without links the processes connect to Redis directly.
    """
    (folder / "redis").mkdir(parents=True)
    redis_server = RedisServer(folder / "redis", append_only=True)
    await asyncio.to_thread(redis_server.start)
    names = [*fleet.apis, *fleet.workers] if has_links else []
    links = {name: NetworkLink(redis_server.port, free_port()) for name in names}
    cluster = make_cluster(folder, fleet, redis_server, links, api or {}, worker or {})
    try:
        for link in cluster.links.values():
            await link.start()
        for process in cluster.processes:
            process.start()
        await asyncio.gather(*(process.wait_until_ready() for process in cluster.processes))
        await cluster.wait_until_registered()
        yield cluster
    finally:
        for process in cluster.processes:
            await process.discard()
        await asyncio.gather(*(link.stop() for link in cluster.links.values()))
        await cluster.redis.aclose()
        await asyncio.to_thread(redis_server.stop)


def make_cluster(
    folder: Path,
    fleet: Fleet,
    redis_server: RedisServer,
    links: dict[str, NetworkLink],
    api: Settings,
    worker: Settings,
) -> Cluster:
    def redis_url(name: str) -> Settings:
        return {"redis_url": links[name].url if name in links else redis_server.url}

    ports = {name: free_port() for name in fleet.apis}
    apis = [
        ServiceProcess(
            name, "api", {**redis_url(name), "port": ports[name], **api}, "listening", folder
        )
        for name in fleet.apis
    ]
    shared = {"lease_s": fleet.lease_s, "max_attempts": MAX_ATTEMPTS, "threads": 1, "grace_s": 5}
    workers = [
        ServiceProcess(
            name, "worker", {**redis_url(name), **shared, **worker}, "worker ready", folder
        )
        for name in fleet.workers
    ]
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    redis = connect(redis_server.url, name="chaos")
    return Cluster(redis_server, apis, workers, links, urls, redis)
