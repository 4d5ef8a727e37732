"""`/v1`: the interface of OpenAI. Responses and errors have its shapes."""

from collections.abc import Iterator

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.errors import json_response
from api.jobs.redis_services import redis_timeout
from api.openai.schemas import Model, ModelList
from api.openapi import MODEL, MODELS, OPENAI_LOOKUP_ERRORS, OPENAI_UNAVAILABLE
from api.services import Services, services_of
from shared.errors import ModelNotFound
from shared.protocol import ModelCard
from shared.registry.worker_registry import RegisteredCard

MAX_SHOWN = 40  # characters of an id in an error message

router = APIRouter()


@router.get("/v1/models", summary="List models", responses={200: MODELS, **OPENAI_UNAVAILABLE})
async def list_models(request: Request) -> Response:
    """List the model of the workers, then the LoRA adapters that a request may name.

    The list is empty until a first worker has loaded a model. It stays while no worker is live,
    and is empty again while a worker loads another model.
    """
    return json_response(ModelList(data=await served_models(services_of(request))))


@router.get(
    "/v1/models/{model_id:path}",
    summary="Get a model",
    responses={200: MODEL, **OPENAI_LOOKUP_ERRORS},
)
async def get_model(request: Request, model_id: str) -> Response:
    """Get one entry of the list. Its id may contain slashes, as in `tiiuae/falcon-7b`."""
    models = await served_models(services_of(request))
    for model in models:
        if model.id == model_id:
            return json_response(model)
    names = ", ".join(model.id for model in models) or "none"
    raise ModelNotFound(f"no model {model_id[:MAX_SHOWN]!r}; there are: {names}", field="model")


async def served_models(services: Services) -> list[Model]:
    """Return the models that requests may name now. Raises ServiceUnavailable."""
    registered = await registered_card(services)
    if registered is None:
        return []
    async with redis_timeout():
        loaded = await services.models.runtime_adapters()
    return list(models_of(registered.card, loaded, registered.created_ms))


async def registered_card(services: Services) -> RegisteredCard | None:
    """Read the model card from Redis, so that no replica lags behind.

    Returns the last readable card if a worker of a later version registered this one.
    """
    try:
        async with redis_timeout():
            return await services.redis.registry.current_card()
    except msgspec.DecodeError:
        model = services.models.current
        return None if model is None else model.registered


def models_of(card: ModelCard, loaded: tuple[str, ...], created_ms: int) -> Iterator[Model]:
    """Yield the model, then its adapters. An adapter with the name of the model is left out."""
    names = dict.fromkeys((card.name, *card.adapters, *loaded))
    for name in names:
        yield Model(
            id=name,
            created=created_ms // 1000,
            root=card.name,
            parent=None if name == card.name else card.name,
            max_model_len=card.context_length,
        )
