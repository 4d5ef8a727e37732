"""Breaks the service as scheduled, and puts it right again."""

import asyncio
from contextlib import suppress

import redis.exceptions

from shared.redis.client import UNREACHABLE
from tests.chaos.cluster import Cluster
from tests.chaos.links import Link
from tests.chaos.members import Member
from tests.chaos.schedule import Fault, FaultKind
from tests.chaos.takeover import Leased, TakeoverWatch
from tests.chaos.weather import ALL, Weather

SLOW_S = 0.1  # one way
GAP_S = 0.5  # between the beginnings of two faults


class Injector:
    """At most one fault at a time strikes the same member; different members suffer together."""

    def __init__(self, cluster: Cluster, weather: Weather) -> None:
        self.takeovers = TakeoverWatch(cluster.redis, cluster.keys)
        self.unclean: list[str] = []  # members that ended otherwise than they should
        self._cluster = cluster
        self._weather = weather
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, fault: Fault) -> None:
        """Returns once the fault has struck; it is put right meanwhile."""
        lock = self._locks.setdefault(fault.member, asyncio.Lock())
        await lock.acquire()
        struck = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._suffer(fault, lock, struck)))
        await struck.wait()
        await asyncio.sleep(GAP_S)

    async def all_over(self) -> None:
        """Wait until everything is put right; raises what went wrong with that."""
        await asyncio.gather(*self._tasks)

    async def _suffer(self, fault: Fault, lock: asyncio.Lock, struck: asyncio.Event) -> None:
        try:
            with self._weather.broken(fault):
                struck.set()
                await self._strike(fault)
        finally:
            struck.set()
            lock.release()

    async def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.WORKER_KILL | FaultKind.API_KILL:
                await self._kill(self._cluster.member(fault.member), fault)
            case FaultKind.WORKER_STOP | FaultKind.API_STOP:
                await self._stop(self._cluster.member(fault.member), fault)
            case FaultKind.WORKER_FREEZE:
                await self._freeze(self._cluster.member(fault.member), fault)
            case FaultKind.REDIS_KILL | FaultKind.REDIS_FREEZE:
                await self._take_redis_away(fault)
            case FaultKind.CLIENT_KILL:
                await self._kill_clients()
            case FaultKind.CUT | FaultKind.HOLD | FaultKind.SLOW:
                await self._break_network(fault)

    # -- processes -----------------------------------------------------------------------------

    async def _kill(self, member: Member, fault: Fault) -> None:
        self._note_if_dead(member)
        held = await self.takeovers.jobs_of(member.worker_id)
        await member.kill()
        self._watch_takeover(held)
        await asyncio.sleep(fault.lasts_s)
        member.start()
        await member.ready()

    async def _stop(self, member: Member, fault: Fault) -> None:
        self._note_if_dead(member)
        exit_code = await member.terminate()
        if exit_code is None:
            self.unclean.append(f"{member.worker_id} did not end on SIGTERM, see its log")
        elif exit_code != 0:
            self.unclean.append(f"{member.worker_id} ended with {exit_code} on SIGTERM")
        await asyncio.sleep(fault.lasts_s)
        member.start()
        await member.ready()

    async def _freeze(self, member: Member, fault: Fault) -> None:
        self._note_if_dead(member)
        held = await self.takeovers.jobs_of(member.worker_id)
        member.freeze()
        try:
            self._watch_takeover(held)
            await asyncio.sleep(fault.lasts_s)
        finally:
            member.thaw()

    def _watch_takeover(self, held: list[Leased]) -> None:
        self._tasks.append(asyncio.create_task(self.takeovers.watch(held)))

    def _note_if_dead(self, member: Member) -> None:
        if not member.is_alive:
            self.unclean.append(f"{member.worker_id} had ended by itself: {member.process.poll()}")
            member.start()

    # -- Redis ---------------------------------------------------------------------------------

    async def _take_redis_away(self, fault: Fault) -> None:
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
        links = self._links(fault.member)
        for link in links:
            match fault.kind:
                case FaultKind.CUT:
                    await link.cut()
                case FaultKind.HOLD:
                    link.hold()
                case _:
                    link.slow(SLOW_S)
        await asyncio.sleep(fault.lasts_s)
        for link in links:
            await link.heal(drops=fault.drops)

    def _links(self, member: str) -> list[Link]:
        links = self._cluster.links
        return list(links.values()) if member == ALL else [links[member]]
