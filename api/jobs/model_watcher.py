"""Keeps the model that requests are checked against up to date; knows no request."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from shared.errors import BrokenChatTemplate
from shared.queue.worker_registry import RegisteredCard, Registry
from shared.redis.client import UNREACHABLE
from shared.request.prompt import PromptEncoder

POLL_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CheckedModel:
    card_hash: str
    encoder: PromptEncoder


class ModelWatcher:
    """`current` is None until a first worker has registered its model."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.current: CheckedModel | None = None
        self._seen_hash: str | None = None
        self._refreshing = asyncio.Lock()  # one load of a tokenizer at a time
        self._last_complaint: str | None = None

    async def run(self) -> None:
        """Poll until cancelled. While Redis is away, the last model stays; others log that."""
        while True:
            with suppress(*UNREACHABLE):
                await self.refresh()
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Read again which model serves; for a card of another version the last one stays.

        Raises what an unreachable Redis raises.
        """
        try:
            async with self._refreshing:
                await self._read()
            self._last_complaint = None
        except msgspec.DecodeError as error:
            if self._last_complaint != str(error):
                self._last_complaint = str(error)
                log.error("unreadable model card; the last one stays", error=str(error))

    async def _read(self) -> None:
        registered = await self._registry.current_card()
        card_hash = registered.hash if registered else None
        if card_hash == self._seen_hash:
            return
        self.current = await self._load(registered) if registered else None
        self._seen_hash = card_hash

    async def _load(self, registered: RegisteredCard) -> CheckedModel | None:
        """In a thread: a large tokenizer takes a while.

        Leave the checks to the workers if the tokenizer or the chat template cannot be read here.
        """
        try:
            encoder = await asyncio.to_thread(
                PromptEncoder, registered.card, registered.tokenizer_json
            )
        except (ValueError, BrokenChatTemplate) as error:
            name = registered.card.name
            log.error("unreadable tokenizer or chat template", model=name, error=str(error))
            return None
        log.info("model registered", model=registered.card.name, card=registered.hash[:12])
        return CheckedModel(registered.hash, encoder)
