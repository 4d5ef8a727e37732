"""vLLM's routes that load and unload LoRA adapters; every live worker agrees before the answer."""

import asyncio
import time
from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from api.jobs.redis_services import RETRY_AFTER_S, redis_timeout
from api.jobs.served_models import ServedModel
from api.openai.schemas import LoadAdapterRequest, UnloadAdapterRequest
from api.openapi import ADAPTER_ERRORS, MESSAGE, request_body
from api.routes.v1.request_jobs import read_v1_model
from api.services import Services, services_of
from shared.errors import BadRequest, Conflict, InvalidParameter, ModelNotFound, ServiceUnavailable
from shared.protocol import WorkerInfo
from shared.registry.adapter_registry import AdapterSet

AGREE_S = 60.0  # for all workers to load an adapter
POLL_S = 0.1
MAX_TRIES = 10  # of a change, while other requests change the set too

router = APIRouter()


@router.post(
    "/v1/load_lora_adapter",
    summary="Load an adapter",
    responses={200: MESSAGE, **ADAPTER_ERRORS},
    openapi_extra=request_body("LoadAdapterRequest"),
)
async def load_lora_adapter(request: Request) -> Response:
    """Load an adapter on all live workers; workers that start later load it too.

    If one of them cannot load it, none keeps it.
    """
    services = services_of(request)
    body = await read_v1_model(request, services, LoadAdapterRequest)
    model = await services.models.find(body.model)
    await check_workers(model)
    await check_name(services, model, body.lora_name)

    def added(current: AdapterSet) -> AdapterSet:
        if current.find(body.lora_name) is not None and not body.load_inplace:
            reason = f"{body.lora_name[:40]!r} is loaded already; set load_inplace to replace it"
            raise BadRequest(reason, field="lora_name")
        return current.with_path(body.lora_name, body.lora_path)

    before, after = await change(model, added)
    reason = await wait_for_workers(model, after, body.lora_name)
    if reason is not None:
        earlier = before.find(body.lora_name)

        def restored(current: AdapterSet) -> AdapterSet:
            if current.find(body.lora_name) != after.find(body.lora_name):
                return current  # another request has replaced or removed it since
            return current.with_earlier(earlier) if earlier else current.without(body.lora_name)

        await change(model, restored)
        raise BadRequest(reason, field="lora_path")
    await refresh(model)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter",
    summary="Unload an adapter",
    responses={200: MESSAGE, **ADAPTER_ERRORS},
    openapi_extra=request_body("UnloadAdapterRequest"),
)
async def unload_lora_adapter(request: Request) -> Response:
    """Unload an adapter from all live workers. Jobs that run with it end with it."""
    services = services_of(request)
    body = await read_v1_model(request, services, UnloadAdapterRequest)
    model = await services.models.find(body.model)

    def removed(current: AdapterSet) -> AdapterSet:
        if current.find(body.lora_name) is None:
            reason = f"no adapter {body.lora_name[:40]!r} was loaded by /v1/load_lora_adapter"
            raise ModelNotFound(reason, field="lora_name")
        return current.without(body.lora_name)

    _, after = await change(model, removed)
    await refresh(model)
    await wait_for_workers(model, after, body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def live_workers(model: ServedModel) -> list[WorkerInfo]:
    async with redis_timeout():
        return await model.redis.registry.workers()


async def check_workers(model: ServedModel) -> None:
    """Raise unless there are live workers, and all of them may load adapters."""
    workers = await live_workers(model)
    if not workers:
        raise ServiceUnavailable("no worker is live", retry_after_s=RETRY_AFTER_S)
    if not all(worker.loads_adapters for worker in workers):
        raise BadRequest("workers load adapters only with --runtime-adapters-dir")


async def check_name(services: Services, model: ServedModel, name: str) -> None:
    """Raise InvalidParameter for the name of a model, or of an adapter that was not loaded here."""
    async with redis_timeout():
        registered = await model.redis.registry.current_card()
    own = (registered.card.name, *registered.card.adapters) if registered else ()
    if name in (model.name, *own) or services.models.known(name) not in (None, model):
        reason = f"must not be the name of a model or of its own adapters, got {name[:40]!r}"
        raise InvalidParameter(reason, field="lora_name")


async def change(
    model: ServedModel, later: Callable[[AdapterSet], AdapterSet]
) -> tuple[AdapterSet, AdapterSet]:
    """Change the set in Redis; return it before and after. Raises what `later` raises."""
    for _ in range(MAX_TRIES):
        async with redis_timeout():
            before = await model.redis.adapters.read()
            after = later(before)
            if after is before or await model.redis.adapters.change(before, after):
                return before, after
    raise Conflict("other requests load and unload adapters at the same time; try again")


async def wait_for_workers(model: ServedModel, wanted: AdapterSet, name: str) -> str | None:
    """Wait until all live workers serve the set; return the reason if one cannot load `name`."""
    deadline = time.monotonic() + AGREE_S
    while time.monotonic() < deadline:
        workers = await live_workers(model)
        done = [worker for worker in workers if worker.adapter_generation >= wanted.generation]
        for worker in done:
            if worker.adapter_generation == wanted.generation and name in worker.adapter_errors:
                return worker.adapter_errors[name]
        if len(done) == len(workers):
            return None
        await asyncio.sleep(POLL_S)
    return f"not all workers answered within {AGREE_S:g} s"


async def refresh(model: ServedModel) -> None:
    """Let this replica check requests against the new set at once; others follow in a second."""
    async with redis_timeout():
        await model.watcher.refresh()
