"""Redis with TLS: api and worker present certificates and verify the certificate of Redis.

The redis-server of the test may be built without TLS, so a proxy terminates TLS.
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
from tests.integration.redis.proxy import Direction, RedisProxy
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
    """Return a proxy that accepts only clients of this authority."""
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
    """Return a proxy in front of the TLS proxy."""
    proxy = RedisProxy(tls_redis.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


def tls_url(proxy: RedisProxy, directory: Path, client: trustme.CA, trusted: trustme.CA) -> str:
    """Return the URL of a client with a certificate by `client` that trusts those by `trusted`."""
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


async def test_api_and_worker_stop_though_closes_get_no_answer(
    network: RedisProxy,
    authority: trustme.CA,
    tmp_path: Path,
    start_api: StartApi,
    start_worker: StartWorker,
) -> None:
    """TLS waits for the answer to a close, which plain connections do not.

    The concurrent calls leave idle connections behind.
    """
    url = tls_url(network, tmp_path, authority, authority)
    api, worker = start_api(redis_url=url), start_worker(redis_url=url)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=WAIT_S) as http:
        calls = [http.post("/chat", json={"prompt": "Once upon a time"}) for _ in range(8)]
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    network.block(*Direction)
    for child in (api, worker):
        child.process.send_signal(signal.SIGTERM)
    assert [await child.exit_code() for child in (api, worker)] == [0, 0]
    assert "Traceback" not in api.log_text + worker.log_text


async def test_an_untrusted_redis_stops_a_worker_with_one_line(
    tls_redis: RedisProxy, authority: trustme.CA, tmp_path: Path, start_worker: StartWorker
) -> None:
    url = tls_url(tls_redis, tmp_path, client=authority, trusted=trustme.CA())
    worker = start_worker(redis_url=url)
    assert await worker.exit_code() == 2
    assert "this worker cannot use its Redis" in worker.log_text.splitlines()[-1]
    assert "certificate verify failed" in worker.log_text.splitlines()[-1]
    assert "Traceback" not in worker.log_text


async def test_a_certificate_with_another_name_is_not_trusted(
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


async def test_an_api_logs_why_it_does_not_trust_redis(
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
