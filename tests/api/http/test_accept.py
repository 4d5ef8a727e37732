"""The `Accept` header selects events or JSON, and Prometheus text or JSON."""

import httpx
import pytest

from tests.fakes_api import FakeService

EVENTS = "text/event-stream"

STREAMED = [
    EVENTS,
    "Text/Event-Stream",
    "text/event-stream; charset=utf-8",
    "text/event-stream;q=0.1",
    "text/event-stream, */*;q=0.1",
    "application/json, text/event-stream",  # as clients of the Model Context Protocol send it
    "application/json;q=0.5, text/event-stream",
    "text/*",
    "*/*, application/json;q=0",
    'application/json;x="a,b;q=1";q=0.1, text/event-stream;Q=0.2',
]
PLAIN = [
    "",
    "*/*",
    "application/json",
    "application/json, text/plain, */*",  # axios
    "text/event-stream;q=0",
    "text/event-stream; q=0.0, */*",
    "text/event-stream;Q=0, text/*",
    "text/event-stream;q=0.1, application/json",
    "text/event-streams",
    'application/json;profile="text/event-stream"',
    "text/html, application/xhtml+xml, */*;q=0.8",
    "text/html",
]
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


async def chat(service: FakeService, accept: list[str]) -> httpx.Response:
    headers = [("Accept", value) for value in accept]
    return await service.http.post("/chat", json={"prompt": "hello"}, headers=headers)


@pytest.mark.parametrize("accept", STREAMED)
async def test_a_client_that_prefers_events_gets_them(service: FakeService, accept: str) -> None:
    response = await chat(service, [accept])
    assert response.headers["content-type"].startswith(EVENTS)


@pytest.mark.parametrize("accept", PLAIN)
async def test_a_client_that_does_not_prefer_events_gets_json(
    service: FakeService, accept: str
) -> None:
    response = await chat(service, [accept])
    assert response.headers["content-type"] == "application/json"
    assert response.json()["Result"] == "hello HELLO"


async def test_several_headers_form_one_list(service: FakeService) -> None:
    response = await chat(service, ["application/json;q=0.5", EVENTS])
    assert response.headers["content-type"].startswith(EVENTS)


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", PROMETHEUS, "application/json;q=0"])
async def test_metrics_are_prometheus_text(service: FakeService, accept: str) -> None:
    response = await service.http.get("/metrics", headers={"Accept": accept})
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/plain, */*"])
async def test_metrics_are_json_on_request(service: FakeService, accept: str) -> None:
    response = await service.http.get("/metrics", headers={"Accept": accept})
    assert "cpu_info" in response.json()
