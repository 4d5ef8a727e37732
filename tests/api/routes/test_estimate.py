"""`POST /estimate`: what would become of a request, and nothing is enqueued."""

from typing import Any

import pytest

from api.settings import ApiSettings
from tests.fakes_api import FakeService, fake_service

REFUSED = [
    {},
    {"prompt": "hello", "unknown": 1},
    {"prompt": "hello", "model": "other"},
    {"prompt": "hello", "generate_kwargs": {"max_new_tokens": 5000}},
    {"prompt": "hello", "generate_kwargs": {"num_beams": 9}},
    {"prompt": "hello", "ttl_s": 10**9},
]


async def estimate(service: FakeService, **body: Any) -> dict[str, Any]:
    response = await service.http.post("/estimate", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_an_estimate_has_the_sizes_of_the_job_and_enqueues_nothing(
    service: FakeService,
) -> None:
    kwargs = {"max_new_tokens": 20, "num_return_sequences": 3}
    found = await estimate(service, prompt="hello", generate_kwargs=kwargs)
    sizes = {"prompt_tokens": 5, "max_new_tokens": 20, "kv_tokens": 75}
    assert found == {"accepted": True, "position": 1} | sizes
    assert await service.num_queued() == 0
    assert (await service.http.get("/jobs")).json()["jobs"] == []


async def test_without_a_worker_the_sizes_are_unknown(workerless: FakeService) -> None:
    found = await estimate(workerless, prompt="hello")
    assert found == {"accepted": True, "position": 1, "waiting_for": "worker"}


@pytest.mark.parametrize("body", REFUSED)
async def test_a_body_that_chat_refuses_gets_the_same_error(
    service: FakeService, body: dict[str, Any]
) -> None:
    chat = await service.http.post("/chat", json=body)
    found = await service.http.post("/estimate", json=body)
    assert found.status_code == chat.status_code >= 400
    assert found.json() == chat.json()


async def test_an_estimate_has_the_error_of_a_full_queue() -> None:
    async with fake_service(ApiSettings(max_queued=1), with_worker=False) as service:
        assert (await service.http.post("/jobs", json={"prompt": "hello"})).is_success
        found = await estimate(service, prompt="hello")
        refusal = await service.http.post("/jobs", json={"prompt": "hello"})
    assert not found["accepted"]
    assert found["error"] == {
        "status_code": refusal.status_code,
        "detail": refusal.json()["detail"],
        "retry_after_s": int(refusal.headers["retry-after"]),
    }
