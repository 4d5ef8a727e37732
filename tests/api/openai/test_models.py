"""`/v1/models`, and errors in OpenAI's form."""

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from shared.registry.worker_registry import Registry
from tests.echo_worker import letter_tokenizer
from tests.factories import make_card
from tests.fakes_api import FakeService


async def publish(service: FakeService, name: str) -> None:
    """Register a model of this name; the api has not read it yet."""
    registry = Registry(service.redis, service.keys)
    await registry.publish_card(make_card(name=name), letter_tokenizer().to_str().encode())


async def listed(service: FakeService) -> list[dict[str, Any]]:
    response = await service.http.get("/v1/models")
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "list"
    models: list[dict[str, Any]] = body["data"]
    return models


async def test_the_model_and_its_adapters_are_listed(service: FakeService) -> None:
    models = await listed(service)
    assert [(model["id"], model["parent"]) for model in models] == [
        ("letters", None),
        ("tales", "letters"),
        ("verse", "letters"),
    ]
    for model in models:
        assert (model["object"], model["owned_by"]) == ("model", "falconer")
        assert model["root"] == "letters"
        assert type(model["created"]) is int and 0 <= time.time() - model["created"] < 600
        assert model["max_model_len"] == 2048


async def test_a_model_keeps_its_time_of_registration(workerless: FakeService) -> None:
    await publish(workerless, "new")
    (first,) = await listed(workerless)
    (key,) = [name async for name in workerless.redis.scan_iter("*model-created*")]
    await workerless.redis.set(key, 5_000_000, keepttl=True)
    await publish(workerless, "other")
    assert (await listed(workerless))[0]["created"] >= first["created"]
    await publish(workerless, "new")
    (again,) = await listed(workerless)
    assert (first["id"], again["id"], again["created"]) == ("new", "new", 5000)


async def test_a_request_may_name_every_listed_adapter(service: FakeService) -> None:
    for model in await listed(service):
        request = {"prompt": "hello"} | ({"adapter": model["id"]} if model["parent"] else {})
        assert (await service.http.post("/chat", json=request)).status_code == 200


async def test_a_model_is_its_entry_in_the_list(service: FakeService) -> None:
    for model in await listed(service):
        response = await service.http.get(f"/v1/models/{model['id']}")
        assert (response.status_code, response.json()) == (200, model)


@pytest.mark.parametrize("name", ["tiiuae/falcon-7b", "/models/falcon-7b", "a falcon?", "a%2Fb"])
async def test_an_id_may_contain_slashes_and_other_characters(
    workerless: FakeService, name: str
) -> None:
    await publish(workerless, name)
    for path in {quote(name), quote(name, safe="")}:
        response = await workerless.http.get(f"/v1/models/{path}")
        assert (response.status_code, response.json()["id"]) == (200, name)


async def test_the_list_is_empty_before_a_first_worker(workerless: FakeService) -> None:
    assert await listed(workerless) == []
    response = await workerless.http.get("/v1/models/letters")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "model: no model 'letters'; there are: none"


async def test_a_model_is_listed_as_soon_as_a_worker_has_registered_it(
    workerless: FakeService,
) -> None:
    await publish(workerless, "new")
    assert [model["id"] for model in await listed(workerless)] == ["new"]


async def test_a_model_stays_listed_without_a_live_worker(service: FakeService) -> None:
    await service.stop_worker()
    await Registry(service.redis, service.keys).remove("echo")
    assert len(await listed(service)) == 3


async def test_a_card_of_a_later_version_leaves_the_last_model_listed(service: FakeService) -> None:
    await service.redis.set(service.keys.model_card("new"), b"\x01")
    await service.redis.set(service.keys.current_model, "new")
    assert len(await listed(service)) == 3


@pytest.mark.parametrize("model_id", ["gpt-4", "letters//", "/", "a" * 5000, "%00", "%ff"])
async def test_an_unknown_model_is_not_found(service: FakeService, model_id: str) -> None:
    response = await service.http.get(f"/v1/models/{model_id}")
    assert response.status_code == 404
    error = response.json()["error"]
    message = error.pop("message")
    assert message.endswith("there are: letters, tales, verse") and len(message) < 200
    assert error == {
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nowhere", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/", 404),
        ("GET", "/v1", 404),
    ],
)
async def test_unknown_paths_below_v1_have_openais_error_form(
    service: FakeService, method: str, path: str, status: int
) -> None:
    response = await service.http.request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (None, None)


async def test_an_unexpected_error_below_v1_has_openais_error_form(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise AssertionError("secret")

    monkeypatch.setattr(service.services.redis.models[0].registry, "current_card", fail)
    response = await service.http.get("/v1/models")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text


@pytest.fixture
async def cut_off(service: FakeService) -> AsyncIterator[FakeService]:
    """Return a service whose Redis refuses connections."""
    service.server.connected = False
    yield service
    service.server.connected = True


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/letters", "/v1/models/unknown"])
async def test_without_redis_a_request_gets_503_with_retry_after(
    cut_off: FakeService, path: str
) -> None:
    response = await cut_off.http.get(path)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    error = response.json()["error"]
    assert "Redis" in error["message"] and error["type"] == "server_error"
