"""Sample memory, file descriptors and connections of a service's processes over time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared.protocol import JobStatus
from tests.chaos.harness.cluster import Cluster

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """Resources in use at one moment."""

    at: float
    memory_mb: dict[str, float]  # by process
    num_fds: dict[str, int]  # by process
    num_connections: int
    num_keys: int
    data_mb: float  # allocated by Redis
    num_accepted: int  # jobs since the start


async def sample_resources(cluster: Cluster) -> ResourceSample:
    info, totals = await cluster.redis.info("memory"), await cluster.queue.totals()
    memory = {process.name: process.memory_bytes / MB for process in cluster.processes}
    return ResourceSample(
        at=time.monotonic(),
        memory_mb={**memory, "redis": info["used_memory_rss"] / MB},
        num_fds={process.name: process.num_fds for process in cluster.processes},
        num_connections=len(await cluster.redis.client_list()),
        num_keys=await cluster.redis.dbsize(),
        data_mb=info["used_memory"] / MB,
        num_accepted=totals.get(JobStatus.QUEUED, 0),
    )


@dataclass(slots=True)
class ResourceMonitor:
    """Samples resources in the background."""

    samples: list[ResourceSample] = field(default_factory=list)

    @asynccontextmanager
    async def watching(self, cluster: Cluster, every_s: float = 1.0) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch(cluster, every_s))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, cluster: Cluster, every_s: float) -> None:
        while True:
            self.samples.append(await sample_resources(cluster))
            await asyncio.sleep(every_s)

    def memory_growth_mb(self) -> dict[str, float]:
        """Return the maximum minus the first sample, by process."""
        first = self.samples[0].memory_mb
        most = {name: max(each.memory_mb[name] for each in self.samples) for name in first}
        return {name: most[name] - first[name] for name in first}
