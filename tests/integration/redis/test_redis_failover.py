"""Failover to another Redis, by a name or by Sentinel: workers and api follow."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from shared.process.sockets import free_port
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.integration.load import Load
from tests.integration.redis.proxy import RedisProxy
from tests.integration.service import ApiChild, WorkerChild, eventually
from tests.processes import end
from tests.redis_server import RedisServer, redis_binary, running_redis

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]

MASTER = "falconer-master"
SYNC_S = 60.0


@pytest.fixture
def second_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "second", append_only=True) as server:
        yield server


@pytest.fixture
def sentinel_url(redis_server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """Start a sentinel that watches `redis_server` and needs no quorum."""
    port, configuration = free_port(), tmp_path / "sentinel.conf"
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {tmp_path}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {redis_server.port} 1\n"
        f"sentinel down-after-milliseconds {MASTER} 1000\n"
        f"sentinel failover-timeout {MASTER} 5000\n"
    )
    command = [redis_binary(), str(configuration), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/{MASTER}/0"
    end(process)


async def replicate(master: RedisServer, replica: RedisServer) -> None:
    """Make Redis a replica and wait until it has all data."""
    redis, other = connect(master.url, name="test"), connect(replica.url, name="test")
    await other.replicaof("127.0.0.1", str(master.port))

    async def is_in_sync() -> bool:
        await redis.set("in-sync", time.monotonic())
        return bool(await redis.wait(1, 1000))

    await eventually(is_in_sync, SYNC_S)
    await redis.aclose()
    await other.aclose()


async def test_clients_leave_a_redis_that_became_a_replica(
    redis_server: RedisServer,
    second_server: RedisServer,
    start_api: StartApi,
    start_worker: StartWorker,
) -> None:
    """Their connections to the old master stay open, so clients must notice it themselves."""
    proxy = RedisProxy(redis_server.port)
    await proxy.start()
    api, worker = start_api(redis_url=proxy.url), start_worker(redis_url=proxy.url)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        load = Load(http, new_tokens=30)
        async with load.running():
            await load.wait_for_accepted(10)
            await replicate(redis_server, second_server)
            await switch_roles(redis_server, second_server, proxy)
            await load.wait_for_accepted(20)
        assert {end["status"] for end in await load.ends()} == {"succeeded"}
    for child in (api, worker):
        child.kill()
    await proxy.stop()


async def switch_roles(old: RedisServer, new: RedisServer, proxy: RedisProxy) -> None:
    """Switch the roles after the new master has all data, as `FAILOVER` does."""
    redis = connect(old.url, name="test")
    await redis.execute_command("FAILOVER", "TO", "127.0.0.1", new.port)

    async def is_replica() -> bool:
        return bool((await redis.info("replication"))["role"] == "slave")

    await eventually(is_replica, SYNC_S)
    proxy.redis_port = new.port
    await redis.aclose()


async def test_clients_follow_sentinel_when_the_master_dies(
    redis_server: RedisServer,
    second_server: RedisServer,
    sentinel_url: str,
    start_api: StartApi,
    start_worker: StartWorker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first sentinel of the URL is down. The last writes of the master may be lost."""
    await replicate(redis_server, second_server)
    await knows_replica(sentinel_url)
    api, worker = start_api(redis_url=sentinel_url), start_worker(redis_url=sentinel_url)
    await api.ready()
    redis = connect(sentinel_url, name="test")
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        load = Load(http, new_tokens=30)
        async with load.running():
            await load.wait_for_accepted(20)
            safe = list(load.accepted)
            assert await redis.wait(1, 10_000) == 1
            redis_server.kill()
            killed = time.monotonic()
            await load.wait_for_refused(1)
            await load.wait_for_accepted(1)
            took_s = time.monotonic() - killed
            await load.wait_for_accepted(20)
        load.accepted = [job_id for job_id in load.accepted if await is_known(redis, job_id)]
        assert set(safe) <= set(load.accepted)
        assert {end["status"] for end in await load.ends()} == {"succeeded"}
    assert {refusal.status for refusal in load.refusals} <= {503}
    await redis.aclose()
    for child in (api, worker):
        child.kill()
    with capsys.disabled():
        print(f"\nthe new master took jobs {took_s:.2f} s after the old one died")


async def knows_replica(sentinel_url: str) -> None:
    """Sentinel asks a master for its replicas every ten seconds, but not a dead master."""
    address = sentinel_url.split("/")[2].rpartition(",")[2]
    sentinel = Redis.from_url(f"redis://{address}", decode_responses=True)

    async def has_one() -> bool:
        replicas = await sentinel.sentinel_slaves(MASTER)
        return [replica["flags"] for replica in replicas] == ["slave"]

    await eventually(has_one, SYNC_S)
    await sentinel.aclose()


async def is_known(redis: Redis, job_id: str) -> bool:
    return await JobQueue(redis, Keys()).record(job_id) is not None


async def test_a_worker_waits_while_sentinels_have_no_master(start_worker: StartWorker) -> None:
    worker = start_worker(redis_url=f"redis+sentinel://127.0.0.1:{free_port()}/{MASTER}")

    async def waits() -> bool:
        assert worker.process.poll() is None, worker.log_text
        return "waiting for Redis" in worker.log_text

    await eventually(waits)
    assert "No master found for" in worker.log_text
    worker.process.terminate()
    assert await worker.exit_code() == 0, worker.log_text
