"""The model that requests are checked against, and what cannot end the watch over it."""

import msgspec
from structlog.testing import capture_logs

from shared.registry import Registry
from tests.fakes_api import FakeService, letter_card, letter_tokenizer


async def test_a_card_of_another_version_neither_ends_the_watch_nor_replaces_the_model(
    service: FakeService,
) -> None:
    models, known = service.services.models, service.services.models.current
    with capture_logs() as logs:
        unreadable = msgspec.msgpack.encode(["of another version"])
        await service.redis.set(service.keys.model_card("new"), unreadable)
        await service.redis.set(service.keys.current_model, "new")
        await service.until(lambda: any(entry["log_level"] == "error" for entry in logs))
        assert models.current is known
        registry = Registry(service.redis, service.keys)
        tokenizer_json = letter_tokenizer().to_str().encode()
        await registry.publish_card(letter_card(chat_template=None), tokenizer_json)
        await service.until(lambda: models.current is not known)
    assert service.services.dead_tasks == []
