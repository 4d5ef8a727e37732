"""What a request may name: the model that requests are checked against, and its adapters."""

from collections.abc import Iterator

from api.backend import within_reach
from api.model_watch import CheckedModel, ModelWatch
from api.openai.schemas import Model


async def served_models(watch: ModelWatch) -> list[Model]:
    """As Redis knows it now, so that no replica is late; none before a first worker registered.

    Raises ServiceUnavailable.
    """
    async with within_reach():
        await watch.refresh_if_readable()
    return [] if watch.current is None else list(models_of(watch.current))


def models_of(model: CheckedModel) -> Iterator[Model]:
    """The model itself first: the name is its own, should an adapter be called like it."""
    card, created_s = model.encoder.card, model.seen_s
    yield Model(id=card.name, created=created_s, root=card.name, parent=None)
    for adapter in card.adapters:
        yield Model(id=adapter, created=created_s, root=card.name, parent=card.name)
