"""Health, probes, metrics and workers; and every route during an outage of Redis."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.exceptions import ResponseError

from api.app import create_app, lifespan
from api.settings import ApiSettings
from tests.fakes_api import FakeService

NEEDS_REDIS = [
    ("POST", "/chat"),
    ("POST", "/jobs"),
    ("GET", "/jobs/0123"),
    ("GET", "/jobs/0123?wait=5"),
    ("DELETE", "/jobs/0123"),
    ("GET", "/readyz"),
    ("GET", "/workers"),
]


async def test_the_root_has_a_message(service: FakeService) -> None:
    response = await service.http.get("/")
    assert response.json() == {"message": "Server is running"}


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_health_needs_a_live_worker(
    service: FakeService, workerless: FakeService, path: str
) -> None:
    healthy = await service.http.get(path)
    assert (healthy.status_code, healthy.json()) == (200, {"status": "Healthy"})
    unhealthy = await workerless.http.get(path)
    assert unhealthy.status_code == 503
    assert unhealthy.json() == {"detail": "Model not initialized"}
    assert int(unhealthy.headers["retry-after"]) > 0


async def test_readiness_does_not_depend_on_workers(workerless: FakeService) -> None:
    assert (await workerless.http.get("/readyz")).status_code == 200
    assert (await workerless.http.get("/livez")).status_code == 200


async def test_a_process_without_its_reply_reader_is_not_alive(service: FakeService) -> None:
    task = service.services.tasks[0]
    task.cancel()
    await asyncio.wait([task])
    response = await service.http.get("/livez")
    assert response.status_code == 503
    assert "replies" in response.json()["detail"]


async def test_workers_are_listed(service: FakeService) -> None:
    (worker,) = (await service.http.get("/workers")).json()["workers"]
    assert worker["id"] == "echo"
    assert {"model", "device", "running", "waiting", "tokens_per_s", "version"} <= set(worker)


async def test_metrics_count_requests_jobs_and_tokens(service: FakeService) -> None:
    await service.http.post("/chat", json={"prompt": "hello"})
    await service.http.post("/chat", json={"prompt": "hello", "stream": True})
    await service.http.post("/chat", json={"prompt": "fail"})
    await service.http.post("/chat", json={"prompt": ""})
    await service.http.get("/nowhere")
    text = (await service.http.get("/metrics")).text
    for line in (
        'falconer_requests_total{code="200",route="/chat"} 2.0',
        'falconer_requests_total{code="500",route="/chat"} 1.0',
        'falconer_requests_total{code="400",route="/chat"} 1.0',
        'falconer_requests_total{code="404",route="none"} 1.0',
        'falconer_jobs_total{status="queued"} 3.0',
        'falconer_jobs_total{status="succeeded"} 2.0',
        'falconer_jobs_total{status="failed"} 1.0',
        'falconer_tokens_total{kind="prompt"} 10.0',
        'falconer_tokens_total{kind="generated"} 12.0',
        "falconer_time_to_first_token_seconds_count 1.0",
        'falconer_queue_depth{state="waiting"} 0.0',
        "falconer_workers 1.0",
    ):
        assert line in text, line


async def test_metrics_count_jobs_without_a_waiting_request(service: FakeService) -> None:
    job_id = (await service.http.post("/jobs", json={"prompt": "hello"})).json()["id"]
    await service.until(lambda: service.worker.seen)
    await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    await service.stop_worker()
    cancelled = (await service.http.post("/jobs", json={"prompt": "hello"})).json()["id"]
    await service.http.delete(f"/jobs/{cancelled}")
    text = (await service.http.get("/metrics")).text
    assert 'falconer_jobs_total{status="queued"} 2.0' in text
    assert 'falconer_jobs_total{status="succeeded"} 1.0' in text
    assert 'falconer_jobs_total{status="cancelled"} 1.0' in text


@pytest.mark.parametrize("media_type", ["application/json", "application/JSON"])
async def test_metrics_in_json_have_the_form_of_kaito(
    service: FakeService, media_type: str
) -> None:
    response = await service.http.get("/metrics", headers={"Accept": media_type})
    info = response.json()
    assert info["gpu_info"] is None
    assert set(info["cpu_info"]) == {
        "load_percentage",
        "physical_cores",
        "total_cores",
        "memory",
    }
    assert set(info["cpu_info"]["memory"]) == {"used", "total"}


# -- outages of Redis ---------------------------------------------------------------------------


@pytest.fixture
async def cut_off(service: FakeService) -> AsyncIterator[FakeService]:
    """Return a service whose Redis refuses connections."""
    service.server.connected = False
    yield service
    service.server.connected = True


@pytest.mark.parametrize(("method", "path"), NEEDS_REDIS)
async def test_without_redis_a_request_gets_503_with_retry_after(
    cut_off: FakeService, method: str, path: str
) -> None:
    response = await cut_off.http.request(method, path, json={"prompt": "hello"})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "Redis" in response.json()["detail"]


async def test_without_redis_the_process_is_alive_and_its_health_names_redis(
    cut_off: FakeService,
) -> None:
    assert (await cut_off.http.get("/livez")).status_code == 200
    unhealthy = await cut_off.http.get("/health")
    assert (unhealthy.status_code, unhealthy.headers["retry-after"]) == (503, "2")
    assert "Redis is unreachable" in unhealthy.json()["detail"]
    assert (await cut_off.http.get("/metrics")).status_code == 200
    assert (await cut_off.http.get("/")).status_code == 200


async def test_a_scrape_while_redis_hangs_has_the_metrics_of_the_process(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "falconer_redis_up 1.0" in (await service.http.get("/metrics")).text
    monkeypatch.setattr(
        "api.jobs.redis_services.REDIS_TIMEOUT_S", 3600.0
    )  # the scrape has its own timeout
    monkeypatch.setattr(service.services.redis.queue, "depth", asyncio.Event().wait)
    text = (await service.http.get("/metrics")).text
    assert "falconer_redis_up 0.0" in text
    assert "falconer_workers 1.0" in text, "as it was"
    assert 'falconer_requests_total{code="200",route="/metrics"} 1.0' in text


async def test_without_redis_an_invalid_body_is_still_a_4xx(cut_off: FakeService) -> None:
    response = await cut_off.http.post("/chat", json={"prompt": "a", "generate_kwargs": {"k": 1}})
    assert response.status_code == 422


async def test_a_redis_that_refuses_commands_has_its_own_error(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def out_of_memory(*args: object, **kwargs: object) -> None:
        raise ResponseError("Error running script (call to f_1): -OOM command not allowed")

    monkeypatch.setattr(service.services.redis.queue, "enqueue", out_of_memory)
    response = await service.http.post("/chat", json={"prompt": "hello"})
    assert response.status_code == 503
    assert response.json()["detail"] == "Redis refused a command: OOM command not allowed"


async def test_a_waiting_request_survives_an_outage_of_redis(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.02)
    service.worker.paused = True
    call = asyncio.create_task(service.http.post("/chat", json={"prompt": "hello"}))
    await service.until(lambda: service.worker.seen)
    await service.stop_worker()
    service.server.connected = False
    await asyncio.sleep(0.2)
    service.server.connected = True
    service.worker.paused = False
    service.tasks.append(asyncio.create_task(service.worker.run()))
    async with asyncio.timeout(30):
        assert (await call).json()["Result"] == "hello HELLO"


async def test_a_redis_that_never_answers_is_a_503_too() -> None:
    """Connections open, and no reply comes."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = hole.sockets[0].getsockname()[1]
    app = create_app(ApiSettings(redis_url=f"redis://127.0.0.1:{port}"))
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        response = await http.post("/chat", json={"prompt": "hello"}, timeout=30)
    hole.close()
    assert response.status_code == 503
    assert "retry-after" in response.headers
