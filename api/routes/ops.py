"""Routes for operators: health, probes, metrics and workers."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.http.errors import json_response
from api.http.headers import prefers
from api.jobs.redis_services import RETRY_AFTER_S, redis_timeout
from api.jobs.served_models import ServedModel
from api.openapi import BROKEN, MODEL_ERRORS, TEXT, UNAVAILABLE, object_response
from api.routes.tokenizer import ModelName
from api.schemas import ErrorBody
from api.services import Services, services_of
from api.system_info import system_info
from shared.errors import ServiceUnavailable

SCRAPE_TIMEOUT_S = 0.25  # a scrape gets the metrics of the process soon, with or without Redis

router = APIRouter()


@router.get("/", summary="Root", responses={200: object_response("A message.")})
async def root() -> Response:
    return json_response({"message": "Server is running"})


@router.get("/health", summary="Health", responses={200: object_response(), **MODEL_ERRORS})
@router.get("/healthz", summary="Health", responses={200: object_response(), **MODEL_ERRORS})
async def health(request: Request, model: ModelName = None) -> Response:
    """Return 200 when Redis answers and a live worker has loaded the model.

    From then on, requests are checked against that model.
    """
    served = await services_of(request).models.find(model)
    async with redis_timeout():
        workers = await served.redis.registry.workers()
        await served.watcher.refresh()
    if served.watcher.current is not None:
        served.watcher.current.encoder.check_model(model)
    if not workers:
        retry_after = {"Retry-After": str(RETRY_AFTER_S)}
        return json_response(ErrorBody("Model not initialized"), 503, retry_after)
    return json_response({"status": "Healthy"})


@router.get("/livez", summary="Liveness", responses={200: object_response(), **BROKEN})
async def alive(request: Request) -> Response:
    """Return 200 while all tasks of the process run."""
    if dead := services_of(request).dead_tasks:
        return json_response(ErrorBody(f"no longer running: {', '.join(dead)}"), 503)
    return json_response({"status": "alive"})


@router.get("/readyz", summary="Readiness", responses={200: object_response(), **UNAVAILABLE})
async def ready(request: Request) -> Response:
    """Return 200 when Redis answers. Workers do not matter: they may be scaled to zero.

    A Redis that refuses writes counts as ready. All replicas share it, and only a ready replica can
    return clear errors and the results that are there.
    """
    async with redis_timeout():
        await services_of(request).redis.ping()
    return json_response({"status": "ready"})


@router.get("/workers", summary="Live workers", responses={200: object_response(), **UNAVAILABLE})
async def workers(request: Request) -> Response:
    """List the live workers of all models with their load and speed, and the loading workers."""
    registries = [model.redis.registry for model in services_of(request).models.all]
    async with redis_timeout():
        live = [worker for one in registries for worker in await one.workers()]
        loading = [worker for one in registries for worker in await one.loading()]
    return json_response({"workers": live, "loading": loading})


@router.get("/metrics", summary="Metrics", responses={200: TEXT})
async def metrics(request: Request) -> Response:
    """Return Prometheus text; for `Accept: application/json`, the machine's load as KAITO does."""
    if prefers(request, "application/json", "text/plain"):
        return json_response(system_info())
    services = services_of(request)
    await refresh_gauges(services)
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def refresh_gauges(services: Services) -> None:
    """Read the gauges from Redis. While it is unreachable they keep their last values."""
    try:
        async with redis_timeout(SCRAPE_TIMEOUT_S):
            await asyncio.gather(*(refresh_model(model) for model in services.models.all))
    except ServiceUnavailable:
        services.metrics.redis_up.set(0)
        return
    services.metrics.redis_up.set(1)


async def refresh_model(model: ServedModel) -> None:
    depth = await model.redis.queue.depth()
    totals = await model.redis.queue.totals()
    live = await model.redis.registry.workers()
    model.metrics.record_service(depth, totals, len(live))
