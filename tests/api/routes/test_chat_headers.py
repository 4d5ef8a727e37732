"""`POST /chat` with the headers `Prefer` and `Idempotency-Key`."""

import asyncio

import pytest

from api.settings import ApiSettings
from tests.api.job_events import events_of
from tests.fakes_api import FakeService, abandoned_call, fake_service

IMPATIENT = ApiSettings(sync_timeout_s=0.2)


async def test_respond_async_gets_202_at_once(service: FakeService) -> None:
    service.worker.paused = True
    headers = {"Prefer": "respond-async"}
    response = await service.http.post("/chat", json={"prompt": "hello"}, headers=headers)
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["location"] == f"/jobs/{response.json()['id']}"
    assert (response.json()["status"], response.json()["position"]) == ("queued", 1)


async def test_wait_returns_a_result_within_its_seconds(service: FakeService) -> None:
    response = await service.http.post(
        "/chat", json={"prompt": "hello"}, headers={"Prefer": "wait=30"}
    )
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.json()["Result"] == "hello HELLO"


@pytest.mark.parametrize("prefer", ["wait=1", "respond-async, wait=1", 'WAIT="1"; x=y, foo'])
async def test_wait_returns_202_for_a_job_that_takes_longer(
    service: FakeService, prefer: str
) -> None:
    service.worker.paused = True
    response = await service.http.post(
        "/chat", json={"prompt": "hello"}, headers={"Prefer": prefer}
    )
    assert response.status_code == 202
    assert response.headers["location"]


async def test_the_202_after_a_wait_has_the_current_state_of_the_job(service: FakeService) -> None:
    service.worker.paused = True
    response = await service.http.post(
        "/chat", json={"prompt": "hello"}, headers={"Prefer": "wait=1"}
    )
    assert (response.status_code, response.json()["status"]) == (202, "running")


async def test_preference_applied_has_the_wait_that_was_applied() -> None:
    async with fake_service(IMPATIENT) as service:
        service.worker.paused = True
        response = await service.http.post(
            "/chat", json={"prompt": "hello"}, headers={"Prefer": "wait=600"}
        )
        assert response.headers["preference-applied"] == "wait=0.2"


@pytest.mark.parametrize(
    "prefer", ["handling=strict, return=minimal", 'x="a, wait=0"', 'x="\\", wait=0"', 'x="wait=0']
)
async def test_unknown_preferences_are_ignored(service: FakeService, prefer: str) -> None:
    headers = {"Prefer": prefer}
    response = await service.http.post("/chat", json={"prompt": "hello"}, headers=headers)
    assert response.status_code == 200
    assert "preference-applied" not in response.headers


async def test_the_same_key_and_body_return_the_same_job(service: FakeService) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await service.http.post("/chat", json={"prompt": "a", "priority": 1}, headers=headers)
    again = await service.http.post("/chat", json={"priority": 1, "prompt": "a"}, headers=headers)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    stream = {"Accept": "text/event-stream"} | headers
    replayed = await service.http.post("/chat", json={"prompt": "a", "priority": 1}, headers=stream)
    assert events_of(replayed.text)[-1]["id"] == first.json()["id"]
    assert len(service.worker.seen) == 1


async def test_two_requests_with_one_key_wait_for_one_job(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 3600)  # the record is not read
    service.worker.paused = True
    headers = {"Idempotency-Key": "k1"}
    calls = [
        asyncio.create_task(service.http.post("/chat", json={"prompt": "a"}, headers=headers))
        for _ in range(2)
    ]
    await service.until(lambda: service.worker.seen)
    service.worker.paused = False
    async with asyncio.timeout(30):
        first, second = [(await call).json() for call in calls]
    assert first == second


async def test_the_same_key_with_another_body_is_a_conflict(service: FakeService) -> None:
    headers = {"Idempotency-Key": "k1"}
    await service.http.post("/chat", json={"prompt": "a"}, headers=headers)
    response = await service.http.post("/chat", json={"prompt": "b"}, headers=headers)
    assert response.status_code == 409
    assert "Idempotency-Key" in response.json()["detail"]


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "wait=30"}])
async def test_a_disconnect_leaves_a_job_with_an_idempotency_key(
    service: FakeService, prefer: dict[str, str]
) -> None:
    service.worker.paused = True
    headers = {"Idempotency-Key": "k1"} | prefer
    leave = asyncio.Event()
    call = asyncio.create_task(abandoned_call(service.asgi, {"prompt": "a"}, leave, headers))
    await service.until(lambda: service.worker.seen)
    leave.set()
    await call
    service.worker.paused = False
    response = await service.http.post("/chat", json={"prompt": "a"}, headers=headers)
    assert response.json()["id"] == service.worker.seen[0].id
    assert response.status_code == 200
