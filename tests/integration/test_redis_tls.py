"""Redis behind TLS: api and worker prove who they are and check whom they talk to.

The redis-server at hand may be built without TLS: a proxy speaks it in its place.
"""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import trustme
from redis.exceptions import ConnectionError

from shared.redis.client import connect, is_refusal
from tests.integration.redis_proxy import RedisProxy, Way
from tests.integration.service import WAIT_S, ApiChild, WorkerChild, eventually
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def tls_redis(redis_server: RedisServer, authority: trustme.CA) -> AsyncIterator[RedisProxy]:
    """Talks only to clients that this authority knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    proxy = RedisProxy(redis_server.port, tls=context)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def network(tls_redis: RedisProxy) -> AsyncIterator[RedisProxy]:
    """On the way there; knows nothing of TLS."""
    proxy = RedisProxy(tls_redis.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


def tls_url(proxy: RedisProxy, directory: Path, client: trustme.CA, trusted: trustme.CA) -> str:
    """With a certificate by `client`, of a client that trusts those by `trusted`."""
    certificate = client.issue_cert("falconer.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "client.pem")
    trusted.cert_pem.write_to_path(directory / "ca.pem")
    return (
        f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={directory}/ca.pem"
        f"&ssl_certfile={directory}/client.pem&ssl_keyfile={directory}/client.pem"
    )


async def test_a_job_runs_over_tls_with_certificates_on_both_sides(
    tls_redis: RedisProxy,
    authority: trustme.CA,
    tmp_path: Path,
    start_api: StartApi,
    start_worker: StartWorker,
) -> None:
    url = tls_url(tls_redis, tmp_path, authority, authority)
    api, worker = start_api(redis_url=url), start_worker(redis_url=url)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        answer = await http.post("/chat", json={"prompt": "Once upon a time"}, timeout=WAIT_S)
    assert answer.status_code == 200
    for child in (api, worker):
        child.kill()


async def test_both_stop_in_order_though_no_byte_of_a_farewell_arrives(
    network: RedisProxy,
    authority: trustme.CA,
    tmp_path: Path,
    start_api: StartApi,
    start_worker: StartWorker,
) -> None:
    """TLS asks for an answer to a close, which plain connections do not wait for.

    The calls, made at once, leave idle connections behind.
    """
    url = tls_url(network, tmp_path, authority, authority)
    api, worker = start_api(redis_url=url), start_worker(redis_url=url)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=WAIT_S) as http:
        calls = [http.post("/chat", json={"prompt": "Once upon a time"}) for _ in range(8)]
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    network.hold(*Way)
    for child in (api, worker):
        child.process.send_signal(signal.SIGTERM)
    assert [await child.exit_code() for child in (api, worker)] == [0, 0]
    assert "Traceback" not in api.log_text + worker.log_text


async def test_a_redis_that_is_not_trusted_stops_a_worker_with_one_line(
    tls_redis: RedisProxy, authority: trustme.CA, tmp_path: Path, start_worker: StartWorker
) -> None:
    url = tls_url(tls_redis, tmp_path, client=authority, trusted=trustme.CA())
    worker = start_worker(redis_url=url)
    assert await worker.exit_code() == 2
    assert "this worker cannot use its Redis" in worker.log_text.splitlines()[-1]
    assert "certificate verify failed" in worker.log_text.splitlines()[-1]
    assert "Traceback" not in worker.log_text


async def test_a_redis_of_another_name_is_not_trusted(
    redis_server: RedisServer, authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("another.example").configure_cert(context)
    proxy = RedisProxy(redis_server.port, tls=context)
    await proxy.start()
    client = connect(tls_url(proxy, tmp_path, authority, authority), name="test")
    with pytest.raises(ConnectionError, match="IP address mismatch") as caught:
        await client.ping()
    assert is_refusal(caught.value)
    await client.aclose()
    await proxy.stop()


async def test_an_api_says_why_it_does_not_trust_its_redis(
    tls_redis: RedisProxy, authority: trustme.CA, tmp_path: Path, start_api: StartApi
) -> None:
    api = start_api(redis_url=tls_url(tls_redis, tmp_path, authority, trusted=trustme.CA()))

    async def has_said_so() -> bool:
        return "certificate verify failed" in api.log_text

    await eventually(has_said_so)
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        assert (await http.get("/readyz")).status_code == 503
    assert "Traceback" not in api.log_text
    api.kill()
