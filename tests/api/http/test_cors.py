"""Web pages of the origins in `--cors-origins` may call the API."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from api.settings import ApiSettings
from shared.errors import SettingsError
from shared.process.settings import load_settings
from tests.api.refusals import JSON
from tests.fakes_api import FakeService, abandoned_call, fake_service

PAGE = "https://app.example.com"
OTHER = "https://elsewhere.example.com"
ALLOWED = "access-control-allow-origin"

# Method, path, body and status; refusals and failures among them.
CALLS = [
    ("POST", "/chat", {"prompt": "hello"}, 200),
    ("POST", "/chat", {"prompt": "hello", "stream": True}, 200),
    ("POST", "/chat", {"prompt": "fail"}, 500),
    ("POST", "/chat", {"prompt": ""}, 400),
    ("POST", "/chat", {"prompt": "hello", "webhook": 1}, 422),
    ("POST", "/jobs", {"prompt": "hello"}, 202),
    ("GET", "/jobs", None, 200),
    ("GET", "/jobs/unknown", None, 404),
    ("GET", "/jobs/unknown/events", None, 404),
    ("DELETE", "/jobs?status=queued", None, 200),
    ("GET", "/v1/models/unknown", None, 404),
    ("GET", "/metrics", None, 200),
    ("GET", "/nowhere", None, 404),
    ("PUT", "/chat", None, 405),
]
PREFLIGHTS = [(method, path) for method, path, _, _ in CALLS if method != "PUT"]


@pytest.fixture
async def open_service() -> AsyncIterator[FakeService]:
    async with fake_service(ApiSettings(cors_origins=PAGE)) as running:
        yield running


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type,idempotency-key,last-event-id,prefer",
    }


async def test_a_named_origin_may_read_every_response(open_service: FakeService) -> None:
    for method, path, body, status in CALLS:
        response = await open_service.http.request(
            method, path, json=body, headers={"Origin": PAGE}
        )
        assert response.status_code == status, path
        assert response.headers[ALLOWED] == PAGE, path
        exposed = response.headers["access-control-expose-headers"]
        assert {"Location", "Retry-After"} <= set(exposed.split(", "))


async def test_a_named_origin_may_read_the_response_to_an_unexpected_error(
    open_service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(open_service.services.client, "purge", broken)
    response = await open_service.http.delete("/jobs?status=queued", headers={"Origin": PAGE})
    assert (response.status_code, response.headers[ALLOWED]) == (500, PAGE)


@pytest.mark.parametrize(("method", "path"), PREFLIGHTS)
async def test_preflight_requests_get_a_response(
    open_service: FakeService, method: str, path: str
) -> None:
    response = await open_service.http.options(path, headers=preflight(PAGE, method))
    assert (response.status_code, response.headers[ALLOWED]) == (200, PAGE)
    assert method in response.headers["access-control-allow-methods"]
    assert "idempotency-key" in response.headers["access-control-allow-headers"]


async def test_a_page_may_call_a_service_in_a_private_network(open_service: FakeService) -> None:
    headers = preflight(PAGE) | {"Access-Control-Request-Private-Network": "true"}
    response = await open_service.http.options("/chat", headers=headers)
    assert response.headers["access-control-allow-private-network"] == "true"


async def test_other_origins_are_not_allowed(open_service: FakeService) -> None:
    response = await open_service.http.get("/jobs", headers={"Origin": OTHER})
    assert ALLOWED not in response.headers
    assert response.headers["vary"] == "Origin"
    refused = await open_service.http.options("/chat", headers=preflight(OTHER))
    assert refused.status_code == 400
    assert ALLOWED not in refused.headers


async def test_by_default_no_origin_is_allowed(service: FakeService) -> None:
    response = await service.http.get("/jobs", headers={"Origin": PAGE})
    assert ALLOWED not in response.headers
    refused = await service.http.options("/chat", headers=preflight(PAGE))
    assert refused.status_code == 405
    assert ALLOWED not in refused.headers


async def test_a_star_allows_every_origin() -> None:
    async with fake_service(ApiSettings(cors_origins="*")) as service:
        response = await service.http.get("/jobs", headers={"Origin": OTHER})
        assert response.headers[ALLOWED] == "*"


async def test_a_disconnect_of_a_page_cancels_its_job(open_service: FakeService) -> None:
    """The middleware must pass on the stream and the disconnect."""
    open_service.worker.paused = True
    leave = asyncio.Event()
    body = {"prompt": "hello", "stream": True}
    call = asyncio.create_task(
        abandoned_call(open_service.asgi, body, leave, headers=JSON | {"Origin": PAGE})
    )
    await open_service.until(lambda: open_service.worker.seen)
    leave.set()
    start = (await call)[0]
    assert httpx.Headers(start["headers"])[ALLOWED] == PAGE
    await open_service.until(lambda: open_service.worker.stopped)


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        (
            "https://A.example.com , http://localhost:3000",
            "https://a.example.com,http://localhost:3000",
        ),
        ("*", "*"),
        ("https://a.example:443,http://a.example:80", "https://a.example,http://a.example"),
        ("https://a.example:80,http://[::1]:443", "https://a.example:80,http://[::1]:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        (",", None),
    ],
)
def test_origins_are_separated_by_commas(given: str, origins: str | None) -> None:
    assert load_settings(ApiSettings, {"cors_origins": given}).cors_origins == origins


@pytest.mark.parametrize("wrong", ["app.example.com", "https://a.example.com/", "https://", "a b"])
def test_invalid_origins_are_rejected(wrong: str) -> None:
    with pytest.raises(
        SettingsError, match=r"--cors-origins .* must be an origin such as https://"
    ):
        load_settings(ApiSettings, {"cors_origins": f"https://b.example.com,{wrong}"})


async def test_a_page_of_another_origin_cannot_enqueue_without_a_preflight(
    service: FakeService,
) -> None:
    """Browsers send these types, and a body without a type, without a preflight."""
    body = b'{"prompt": "hello"}'
    types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None]
    for path in ("/chat", "/jobs"):
        for media_type in types:
            headers = {} if media_type is None else {"Content-Type": media_type}
            for origin in (OTHER, "null"):
                response = await service.http.post(
                    path, content=body, headers=headers | {"Origin": origin}
                )
                assert response.status_code == 415, media_type
    assert service.worker.seen == []
    assert await service.num_queued() == 0
