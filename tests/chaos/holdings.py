"""What the processes of a service hold as time goes by: memory, descriptors, connections."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared.protocol import JobStatus
from tests.chaos.cluster import Cluster

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Holdings:
    """At one moment; `memory_mb` and `num_fds` by process."""

    at: float
    memory_mb: dict[str, float]
    num_fds: dict[str, int]
    num_connections: int
    num_keys: int
    data_mb: float  # what Redis has allocated
    num_accepted: int  # jobs so far


async def holdings(cluster: Cluster) -> Holdings:
    info, totals = await cluster.redis.info("memory"), await cluster.queue.totals()
    memory = {member.name: member.memory_bytes / MB for member in cluster.members}
    return Holdings(
        at=time.monotonic(),
        memory_mb={**memory, "redis": info["used_memory_rss"] / MB},
        num_fds={member.name: member.num_fds for member in cluster.members},
        num_connections=len(await cluster.redis.client_list()),
        num_keys=await cluster.redis.dbsize(),
        data_mb=info["used_memory"] / MB,
        num_accepted=totals.get(JobStatus.QUEUED, 0),
    )


@dataclass(slots=True)
class Observations:
    seen: list[Holdings] = field(default_factory=list)

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
            self.seen.append(await holdings(cluster))
            await asyncio.sleep(every_s)

    def memory_growth_mb(self) -> dict[str, float]:
        """By process: the most it held, less what it held at first."""
        first = self.seen[0].memory_mb
        most = {name: max(each.memory_mb[name] for each in self.seen) for name in first}
        return {name: most[name] - first[name] for name in first}
