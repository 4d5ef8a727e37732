"""A worker that starts while Redis is missing, silent, or fails during the start."""

import signal
import socket
from collections.abc import Callable

import psutil
import pytest

from shared.process.sockets import free_port
from shared.protocol import Succeeded
from tests.integration.redis.proxy import RedisProxy
from tests.integration.service import Service, WorkerChild, eventually
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]


async def said(worker: WorkerChild, text: str) -> None:
    async def is_there() -> bool:
        assert worker.process.poll() is None, worker.log_text
        return text in worker.log_text

    await eventually(is_there)


async def ends_quietly(worker: WorkerChild) -> None:
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.exit_code() == 0, worker.log_text
    assert "Traceback" not in worker.log_text


async def test_a_worker_that_waits_for_redis_can_be_stopped(start_worker: StartWorker) -> None:
    worker = start_worker(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    await said(worker, "waiting for Redis")
    await ends_quietly(worker)


async def test_a_worker_with_a_silent_redis_can_be_stopped(start_worker: StartWorker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # the system accepts connections
        worker = start_worker(redis_url=f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        await said(worker, "model loaded")

        async def is_connected() -> bool:  # again: the reports of the load have ended
            connections = psutil.Process(worker.process.pid).net_connections()
            return any(one.status == psutil.CONN_ESTABLISHED for one in connections)

        await eventually(is_connected)
        await ends_quietly(worker)
    assert "the model was not announced" in worker.log_text
    assert "waiting for Redis" not in worker.log_text  # it was stopped during its first call


async def test_a_wrong_password_stops_the_start_with_one_line(
    start_worker: StartWorker, service: Service, redis_server: RedisServer
) -> None:
    await service.redis.config_set("requirepass", "right")
    worker = start_worker(redis_url=redis_server.url.replace("127.0.0.1", ":wrong@127.0.0.1"))
    assert await worker.exit_code() == 2
    loading, loaded, line = worker.log_text.splitlines()
    assert "loading model" in loading
    for figure in ("model loaded", "resolve_s", "weights_s", "read_gb_per_s", "kv_blocks"):
        assert figure in loaded
    assert "this worker cannot use its Redis" in line
    assert "wrong@" not in worker.log_text


@pytest.mark.parametrize("trigger", [b"INFO", b"EVALSHA"])
async def test_a_worker_waits_for_a_redis_that_fails_during_its_start(
    start_worker: StartWorker, service: Service, redis_server: RedisServer, trigger: bytes
) -> None:
    """At the first call, and while the model card is published."""
    proxy = RedisProxy(redis_server.port, trigger)
    await proxy.start()
    worker = start_worker(redis_url=proxy.url)
    await said(worker, "waiting for Redis")
    proxy.restore()
    await service.ready(worker)
    job = await service.submit()
    assert isinstance(await job.end(), Succeeded)
    assert "Traceback" not in worker.log_text
    worker.kill()
    await proxy.stop()
