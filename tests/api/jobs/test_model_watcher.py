"""The model that requests are checked against."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.protocol import ModelCard
from shared.registry.worker_registry import Registry
from tests.echo_worker import letter_card, letter_tokenizer
from tests.factories import make_worker_info
from tests.fakes_api import FakeService, fake_service


async def test_a_card_of_a_later_version_keeps_the_last_model(
    watching: FakeService,
) -> None:
    models = watching.services.models.first.watcher
    known = models.current
    with capture_logs() as logs:
        unreadable = msgspec.msgpack.encode(["of another version"])
        await watching.redis.set(watching.keys.model_card("new"), unreadable)
        await watching.redis.set(watching.keys.current_model, "new")
        await watching.until(lambda: any(entry["log_level"] == "error" for entry in logs))
        assert models.current is known
        registry = Registry(watching.redis, watching.keys)
        tokenizer_json = letter_tokenizer().to_str().encode()
        await registry.publish_card(letter_card(chat_template=None), tokenizer_json)
        await watching.until(lambda: models.current is not known)
    assert watching.services.dead_tasks == []


@pytest.fixture
async def watching() -> AsyncIterator[FakeService]:
    async with fake_service() as running:
        yield running


def card(name: str, context: int) -> ModelCard:
    changed = {"name": name, "context_length": context, "source": name}
    return msgspec.structs.replace(letter_card(), **changed)


@pytest.fixture
async def service(workerless: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """Return an api with a model of 100 tokens context, which it does not poll."""
    monkeypatch.setattr("api.jobs.served_models.POLL_S", 3600)
    await serve(workerless, card("small", 100))
    assert (await workerless.http.get("/health")).status_code == 200
    return workerless


async def serve(service: FakeService, card: ModelCard) -> None:
    """Register a model, as a worker does that has loaded it."""
    registry = Registry(service.redis, service.keys)
    card_hash = await registry.publish_card(card, letter_tokenizer().to_str().encode())
    await registry.report(make_worker_info(card.name, card_hash=card_hash))


async def submit(service: FakeService, num_tokens: int) -> Any:
    body = {"prompt": "a" * num_tokens, "generate_kwargs": {"max_new_tokens": 1}}
    return await service.http.post("/jobs", json=body)


async def test_no_request_is_refused_by_a_replaced_model(service: FakeService) -> None:
    assert (await submit(service, 200)).status_code == 400
    await Registry(service.redis, service.keys).remove("small")
    await serve(service, card("large", 1000))
    assert (await submit(service, 200)).status_code == 202
    refused = await submit(service, 2000)
    assert (refused.status_code, "1000" in refused.text) == (400, True)


async def test_once_healthy_requests_are_checked_against_the_new_model(
    service: FakeService,
) -> None:
    await Registry(service.redis, service.keys).remove("small")
    assert (await service.http.get("/health")).status_code == 503
    await serve(service, card("tiny", 10))
    assert (await service.http.get("/health")).status_code == 200
    assert (await submit(service, 50)).status_code == 400


async def test_while_another_model_loads_the_worker_checks_requests(
    service: FakeService,
) -> None:
    registry = Registry(service.redis, service.keys)
    await registry.announce("large")
    assert (await submit(service, 200)).status_code == 400  # the old one still serves
    await registry.remove("small")
    assert (await submit(service, 200)).status_code == 202
    assert (await service.http.get("/v1/models")).json()["data"] == []
    await serve(service, card("large", 1000))
    assert (await service.http.get("/health")).status_code == 200
    assert (await submit(service, 2000)).status_code == 400


async def test_a_model_that_loads_again_keeps_its_limits(service: FakeService) -> None:
    registry = Registry(service.redis, service.keys)
    await registry.remove("small")
    assert (await submit(service, 200)).status_code == 400  # scaled to zero
    await registry.announce("small")
    assert (await submit(service, 200)).status_code == 400
