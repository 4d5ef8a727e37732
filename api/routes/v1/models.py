"""`/v1`: the interface of OpenAI. Responses and errors have its shapes."""

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.errors import json_response
from api.jobs.redis_services import redis_timeout
from api.jobs.served_models import ServedModel
from api.openai.schemas import Model, ModelList
from api.openapi import MODEL, MODELS, OPENAI_LOOKUP_ERRORS, OPENAI_UNAVAILABLE
from api.services import Services, services_of
from shared.errors import ModelNotFound

MAX_SHOWN = 40  # characters of an id in an error message

router = APIRouter()


@router.get("/v1/models", summary="List models", responses={200: MODELS, **OPENAI_UNAVAILABLE})
async def list_models(request: Request) -> Response:
    """List each model of the service, and after it the LoRA adapters that a request may name.

    The list is empty until a first worker has loaded a model. It stays while no worker is live,
    and is empty again while a worker loads another model. A model that `--models` names is always
    there.
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
    by_name: dict[str, Model] = {}
    async with redis_timeout():
        for served in services.models.all:
            for model in await models_of(served):
                by_name.setdefault(model.id, model)
    return list(by_name.values())


async def models_of(model: ServedModel) -> list[Model]:
    """Return the model, then its adapters, as Redis has them now: no replica lags behind.

    A worker of a later version may have registered an unreadable card; then the last one counts.
    """
    try:
        registered = await model.redis.registry.current_card()
    except msgspec.DecodeError:
        current = model.watcher.current
        registered = None if current is None else current.registered
    if registered is None:
        return [] if model.name is None else [unregistered(model.name)]
    card, loaded = registered.card, await model.watcher.runtime_adapters()
    return [
        Model(
            id=name,
            created=registered.created_ms // 1000,
            root=card.name,
            parent=None if name == card.name else card.name,
            max_model_len=card.context_length,
        )
        for name in (card.name, *card.adapters, *loaded)
    ]


def unregistered(name: str) -> Model:
    """Return a model that no worker has loaded yet; its jobs wait for a worker."""
    return Model(id=name, created=0, root=name, parent=None, max_model_len=None)
