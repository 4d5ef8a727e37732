"""`/v1`: for clients of OpenAI's interface. Answers and failures have its shapes."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.errors import json_response
from api.openai.models import served_models
from api.openai.schemas import ModelList
from api.openapi import MODEL, MODELS, OPENAI_LOOKUP_ERRORS, OPENAI_UNAVAILABLE
from api.services import services_of
from shared.errors import ModelNotFound

MAX_SHOWN = 40  # characters of an id that the caller chose

router = APIRouter()


@router.get("/v1/models", summary="List models", responses={200: MODELS, **OPENAI_UNAVAILABLE})
async def list_models(request: Request) -> Response:
    """The model that the workers serve, then the LoRA adapters that a request may name.

    They stay while no worker is live, until one begins to load another model. Empty until then,
    and before a first worker came.
    """
    return json_response(ModelList(data=await served_models(services_of(request))))


@router.get(
    "/v1/models/{model_id:path}",
    summary="Look at a model",
    responses={200: MODEL, **OPENAI_LOOKUP_ERRORS},
)
async def look_at_model(request: Request, model_id: str) -> Response:
    """One entry of the list. Its id may have slashes, as `tiiuae/falcon-7b`."""
    models = await served_models(services_of(request))
    for model in models:
        if model.id == model_id:
            return json_response(model)
    names = ", ".join(model.id for model in models) or "none"
    raise ModelNotFound(f"no model {model_id[:MAX_SHOWN]!r}; there are: {names}", field="model")
