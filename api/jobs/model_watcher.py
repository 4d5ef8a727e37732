"""Follow which model the workers serve, with its tokenizer and its limits."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from shared.errors import BrokenChatTemplate
from shared.redis.client import UNREACHABLE
from shared.registry.adapter_registry import AdapterRegistry
from shared.registry.worker_registry import RegisteredCard, Registry
from shared.request.prompt import PromptEncoder

POLL_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CheckedModel:
    registered: RegisteredCard
    encoder: PromptEncoder

    @property
    def card_hash(self) -> str:
        return self.registered.hash

    def with_adapters(self, names: tuple[str, ...]) -> "CheckedModel":
        """Return the model with these adapters loaded at run time; itself if they are the same."""
        if names == self.encoder.runtime_adapters:
            return self
        return CheckedModel(self.registered, self.encoder.with_adapters(names))


class ModelWatcher:
    """Hold the model that requests are checked against."""

    def __init__(self, registry: Registry, adapters: AdapterRegistry) -> None:
        self._registry = registry
        self._adapters = adapters
        self.current: CheckedModel | None = None  # until a worker registers a model
        self._seen_hash: str | None = None
        self._refreshing = asyncio.Lock()  # loads one tokenizer at a time
        self._last_error: str | None = None

    async def run(self) -> None:
        """Poll until cancelled. During an outage of Redis the last model stays."""
        while True:
            with suppress(*UNREACHABLE):
                await self.refresh()
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Read the current model card; the last model stays if the card is of a later version.

        Raises the errors of an unreachable Redis.
        """
        try:
            async with self._refreshing:
                await self._read()
            self._last_error = None
        except msgspec.DecodeError as error:
            if self._last_error != str(error):
                self._last_error = str(error)
                log.error("unreadable model card; keeping the last model", error=str(error))

    async def _read(self) -> None:
        registered = await self._registry.current_card()
        card_hash = registered.hash if registered else None
        if card_hash != self._seen_hash:
            self.current = await self._load(registered) if registered else None
            self._seen_hash = card_hash
        if self.current is not None:
            self.current = self.current.with_adapters(await self.runtime_adapters())

    async def runtime_adapters(self) -> tuple[str, ...]:
        """Return the adapters loaded at run time that every live worker serves."""
        wanted = await self._adapters.read()
        return wanted.served_by(await self._registry.workers()) if wanted.adapters else ()

    async def _load(self, registered: RegisteredCard) -> CheckedModel | None:
        """Load the tokenizer, in a thread: a large one takes a while.

        Returns None if the tokenizer or the chat template is unreadable: workers check requests.
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
        return CheckedModel(registered, encoder)
