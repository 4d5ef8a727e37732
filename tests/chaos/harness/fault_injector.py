"""Inject the scheduled faults and repair them."""

import asyncio
from contextlib import suppress

import redis.exceptions

from shared.redis.client import UNREACHABLE
from tests.chaos.harness.cluster import Cluster
from tests.chaos.harness.fault_timeline import ALL, FaultTimeline
from tests.chaos.harness.network_link import NetworkLink
from tests.chaos.harness.service_process import ServiceProcess
from tests.chaos.harness.takeover import LeasedJob, TakeoverWatch
from tests.chaos.scenarios.fault_schedule import Fault, FaultKind

SLOW_S = 0.1  # delay per direction
GAP_S = 0.5  # between the starts of two faults


class FaultInjector:
    """Injects faults: one at a time per process, several processes concurrently."""

    def __init__(self, cluster: Cluster, timeline: FaultTimeline) -> None:
        self.takeovers = TakeoverWatch(cluster.redis, cluster.keys)
        self.bad_exits: list[str] = []  # processes that ended unexpectedly
        self._cluster = cluster
        self._timeline = timeline
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, fault: Fault) -> None:
        """Start a fault and return once it is active; a task repairs it later."""
        lock = self._locks.setdefault(fault.target, asyncio.Lock())
        await lock.acquire()
        is_active = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._run(fault, lock, is_active)))
        await is_active.wait()
        await asyncio.sleep(GAP_S)

    async def wait_until_repaired(self) -> None:
        """Wait until all faults are repaired; raise errors of the repairs."""
        await asyncio.gather(*self._tasks)

    async def _run(self, fault: Fault, lock: asyncio.Lock, is_active: asyncio.Event) -> None:
        try:
            with self._timeline.record(fault):
                is_active.set()
                await self._inject(fault)
        finally:
            is_active.set()
            lock.release()

    async def _inject(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.WORKER_KILL | FaultKind.API_KILL:
                await self._kill(self._cluster.process(fault.target), fault)
            case FaultKind.WORKER_STOP | FaultKind.API_STOP:
                await self._stop(self._cluster.process(fault.target), fault)
            case FaultKind.WORKER_FREEZE:
                await self._freeze(self._cluster.process(fault.target), fault)
            case FaultKind.REDIS_KILL | FaultKind.REDIS_FREEZE:
                await self._stop_redis(fault)
            case FaultKind.CLIENT_KILL:
                await self._kill_clients()
            case FaultKind.CUT | FaultKind.BLACK_HOLE | FaultKind.SLOW:
                await self._break_network(fault)

    # -- processes -----------------------------------------------------------------------------

    async def _kill(self, process: ServiceProcess, fault: Fault) -> None:
        self._restart_if_dead(process)
        held = await self.takeovers.jobs_of(process.worker_id)
        await process.kill()
        self._watch_takeover(held)
        await asyncio.sleep(fault.lasts_s)
        process.start()
        await process.wait_until_ready()

    async def _stop(self, process: ServiceProcess, fault: Fault) -> None:
        self._restart_if_dead(process)
        exit_code = await process.terminate()
        if exit_code is None:
            self.bad_exits.append(f"{process.worker_id} did not exit on SIGTERM, see its log")
        elif exit_code != 0:
            self.bad_exits.append(f"{process.worker_id} exited with {exit_code} on SIGTERM")
        await asyncio.sleep(fault.lasts_s)
        process.start()
        await process.wait_until_ready()

    async def _freeze(self, process: ServiceProcess, fault: Fault) -> None:
        self._restart_if_dead(process)
        held = await self.takeovers.jobs_of(process.worker_id)
        process.freeze()
        try:
            self._watch_takeover(held)
            await asyncio.sleep(fault.lasts_s)
        finally:
            process.thaw()

    def _watch_takeover(self, held: list[LeasedJob]) -> None:
        self._tasks.append(asyncio.create_task(self.takeovers.watch(held)))

    def _restart_if_dead(self, process: ServiceProcess) -> None:
        if not process.is_alive:
            self.bad_exits.append(
                f"{process.worker_id} had exited by itself with {process.popen.poll()}"
            )
            process.start()

    # -- Redis ---------------------------------------------------------------------------------

    async def _stop_redis(self, fault: Fault) -> None:
        server = self._cluster.redis_server
        if fault.kind is FaultKind.REDIS_FREEZE:
            server.freeze()
            await asyncio.sleep(fault.lasts_s)
            server.thaw()
        else:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(fault.lasts_s)
            await asyncio.to_thread(server.start)

    async def _kill_clients(self) -> None:
        with suppress(*UNREACHABLE, redis.exceptions.RedisError):
            await self._cluster.redis.execute_command("CLIENT", "KILL", "TYPE", "normal")

    # -- network -------------------------------------------------------------------------------

    async def _break_network(self, fault: Fault) -> None:
        links = self._links(fault.target)
        for link in links:
            match fault.kind:
                case FaultKind.CUT:
                    await link.cut()
                case FaultKind.BLACK_HOLE:
                    link.block()
                case _:
                    link.slow(SLOW_S)
        await asyncio.sleep(fault.lasts_s)
        for link in links:
            await link.heal(drops=fault.drops)

    def _links(self, process: str) -> list[NetworkLink]:
        links = self._cluster.links
        return list(links.values()) if process == ALL else [links[process]]
