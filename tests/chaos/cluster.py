"""A whole service as processes: Redis, api replicas, workers, a link from each to Redis."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis

from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.worker_registry import Registry
from shared.redis.client import connect
from tests.chaos.links import Link
from tests.chaos.members import Member
from tests.chaos.schedule import Fleet
from tests.redis_server import RedisServer, free_port

ALL_LIVE_TIMEOUT_S = 60.0
MANY_ATTEMPTS = 50  # a run kills more workers under a job than any good day does

Settings = dict[str, object]


@dataclass(slots=True)
class Cluster:
    redis_server: RedisServer
    apis: list[Member]
    workers: list[Member]
    links: dict[str, Link]  # by the name of the member
    urls: dict[str, str]  # of the api replicas, by name
    redis: Redis  # the harness's own way in, past all links
    keys: Keys = field(default_factory=Keys)

    @property
    def members(self) -> list[Member]:
        return [*self.apis, *self.workers]

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    @property
    def queue(self) -> JobQueue:
        return JobQueue(self.redis, self.keys)

    @property
    def registry(self) -> Registry:
        return Registry(self.redis, self.keys)

    async def all_live(self) -> None:
        """Wait until every worker has reported to the registry."""
        wanted = {worker.worker_id for worker in self.workers}
        deadline = time.monotonic() + ALL_LIVE_TIMEOUT_S
        while missing := wanted - {info.id for info in await self.registry.workers()}:
            assert time.monotonic() < deadline, f"not live: {sorted(missing)}"
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
    """Started and ready; ended, whatever happens, when the context is left.

    Without links the processes reach Redis directly, and nothing of the harness is in between.
    """
    (folder / "redis").mkdir(parents=True)
    redis_server = RedisServer(folder / "redis", append_only=True)
    await asyncio.to_thread(redis_server.start)
    names = [*fleet.apis, *fleet.workers] if has_links else []
    links = {name: Link(redis_server.port, free_port()) for name in names}
    cluster = make_cluster(folder, fleet, redis_server, links, api or {}, worker or {})
    try:
        for link in cluster.links.values():
            await link.start()
        for member in cluster.members:
            member.start()
        await asyncio.gather(*(member.ready() for member in cluster.members))
        await cluster.all_live()
        yield cluster
    finally:
        for member in cluster.members:
            await member.discard()
        await asyncio.gather(*(link.stop() for link in cluster.links.values()))
        await cluster.redis.aclose()
        await asyncio.to_thread(redis_server.stop)


def make_cluster(
    folder: Path,
    fleet: Fleet,
    redis_server: RedisServer,
    links: dict[str, Link],
    api: Settings,
    worker: Settings,
) -> Cluster:
    def redis_url(name: str) -> Settings:
        return {"redis_url": links[name].url if name in links else redis_server.url}

    ports = {name: free_port() for name in fleet.apis}
    apis = [
        Member(name, "api", {**redis_url(name), "port": ports[name], **api}, "listening", folder)
        for name in fleet.apis
    ]
    shared = {"lease_s": fleet.lease_s, "max_attempts": MANY_ATTEMPTS, "threads": 1, "grace_s": 5}
    workers = [
        Member(name, "worker", {**redis_url(name), **shared, **worker}, "worker ready", folder)
        for name in fleet.workers
    ]
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    redis = connect(redis_server.url, name="chaos")
    return Cluster(redis_server, apis, workers, links, urls, redis)
