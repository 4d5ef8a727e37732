"""The models of the service: find that of a request, and follow the cards of all of them."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from api.jobs.redis_services import ModelServices, RedisServices, redis_timeout
from api.metrics import Metrics, ModelMetrics
from shared.errors import BrokenChatTemplate, ModelNotFound, ServiceUnavailable
from shared.redis.client import UNREACHABLE
from shared.registry.adapter_registry import AdapterRegistry
from shared.registry.worker_registry import RegisteredCard, Registry
from shared.request.prompt import PromptEncoder

MAX_SHOWN = 40  # characters of a name in an error message
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


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the service, with its queue and its card."""

    name: str | None  # in `--models`; None without the setting
    redis: ModelServices
    watcher: ModelWatcher
    metrics: ModelMetrics

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that requests may give: of the model, then of its adapters."""
        current = self.watcher.current
        known = () if current is None else (current.encoder.card.name, *current.encoder.adapters)
        return tuple(dict.fromkeys((self.name, *known) if self.name else known))


class ServedModels:
    """All models of the service; the first gets the requests that name none."""

    def __init__(self, redis: RedisServices, names: tuple[str, ...], metrics: Metrics) -> None:
        self.all = [
            ServedModel(
                name,
                services,
                ModelWatcher(services.registry, services.adapters),
                metrics.of_model(name),
            )
            for name, services in zip(names or (None,), redis.models, strict=True)
        ]
        self.first = self.all[0]
        self._by_name = {model.name: model for model in self.all}

    async def run(self) -> None:
        """Follow the cards of all models until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for model in self.all:
                tasks.create_task(model.watcher.run())

    async def find(self, name: str | None) -> ServedModel:
        """Return the model that a request names by its own name or that of an adapter.

        The only model gets every request, and checks the name later. Raises ModelNotFound with the
        names that there are now.
        """
        model = self.known(name)
        if model is None:
            await self._refresh()  # an adapter may just have been loaded
            model = self.known(name)
        if model is None:
            names = ", ".join(dict.fromkeys(name for model in self.all for name in model.names))
            shown = (name or "")[:MAX_SHOWN]
            raise ModelNotFound(f"no model {shown!r}; there are: {names}", field="model")
        return model

    def known(self, name: str | None) -> ServedModel | None:
        """Return the model of a request, as far as this replica knows; None for no model."""
        if name is None or self.first.name is None:
            return self.first
        by_adapter = (model for model in self.all if name in model.names)
        return self._by_name.get(name) or next(by_adapter, None)

    def of_job(self, name: str | None) -> ServedModel | None:
        """Return the model of a job by the field of its record; None if it is served no more."""
        return self.first if name is None else self._by_name.get(name)

    async def _refresh(self) -> None:
        """Read the newest cards and adapters; an outage of Redis changes nothing."""
        with suppress(ServiceUnavailable):
            async with redis_timeout():
                await asyncio.gather(*(model.watcher.refresh() for model in self.all))
