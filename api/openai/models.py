"""What a request may name: the model that requests are checked against, and its adapters."""

from collections.abc import Iterator

import msgspec

from api.jobs.redis_services import within_reach
from api.openai.schemas import Model
from api.services import Services
from shared.protocol import ModelCard


async def served_models(services: Services) -> list[Model]:
    """As Redis knows it now, so that no replica is late; none before a first worker registered.

    Raises ServiceUnavailable.
    """
    card = await _current_card(services)
    return [] if card is None else list(models_of(card, services.started_s))


async def _current_card(services: Services) -> ModelCard | None:
    """Instead of one that this version cannot read, the one before."""
    try:
        async with within_reach():
            registered = await services.backend.registry.current_card()
    except msgspec.DecodeError:
        model = services.models.current
        return None if model is None else model.encoder.card
    return None if registered is None else registered.card


def models_of(card: ModelCard, created_s: int) -> Iterator[Model]:
    """The model itself first: the name is its own, should an adapter be called like it."""
    yield Model(id=card.name, created=created_s, root=card.name, parent=None)
    for adapter in card.adapters:
        if adapter != card.name:
            yield Model(id=adapter, created=created_s, root=card.name, parent=card.name)
