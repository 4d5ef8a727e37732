"""For people and machines that run the service: health, probes, metrics, workers."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.errors import json_response
from api.http.accept import prefers
from api.jobs.redis_services import RETRY_AFTER_S, within_reach
from api.openapi import BROKEN, TEXT, UNAVAILABLE, described
from api.schemas import ErrorBody
from api.services import Services, services_of
from api.system_info import system_info
from shared.errors import ServiceUnavailable

SCRAPE_REACH_S = 0.25  # a scrape does not wait for long: what the process knows is worth having

router = APIRouter()


@router.get("/", summary="Say hello", responses={200: described("A message.")})
async def root() -> Response:
    return json_response({"message": "Server is running"})


@router.get("/health", summary="Is there a model?", responses={200: described(), **UNAVAILABLE})
@router.get("/healthz", summary="Is there a model?", responses={200: described(), **UNAVAILABLE})
async def health(request: Request) -> Response:
    """200 when Redis answers and a live worker has the model loaded.

    From then on requests are checked against that model.
    """
    services = services_of(request)
    try:
        async with within_reach():
            workers = await services.backend.registry.workers()
            await services.models.refresh()
    except ServiceUnavailable:
        workers = []
    if not workers:
        retry_after = {"Retry-After": str(RETRY_AFTER_S)}
        return json_response(ErrorBody("Model not initialized"), 503, retry_after)
    return json_response({"status": "Healthy"})


@router.get("/livez", summary="Is the process alive?", responses={200: described(), **BROKEN})
async def alive(request: Request) -> Response:
    if dead := services_of(request).dead_tasks:
        return json_response(ErrorBody(f"no longer running: {', '.join(dead)}"), 503)
    return json_response({"status": "alive"})


@router.get("/readyz", summary="Is Redis there?", responses={200: described(), **UNAVAILABLE})
async def ready(request: Request) -> Response:
    """Redis answers. Does not depend on workers: they may be scaled to zero.

    Nor on whether Redis takes writes: that is the same for all replicas, and without any of them
    callers would get no clear 503, nor what they can still read.
    """
    async with within_reach():
        await services_of(request).backend.ping()
    return json_response({"status": "ready"})


@router.get("/workers", summary="Live workers", responses={200: described(), **UNAVAILABLE})
async def workers(request: Request) -> Response:
    async with within_reach():
        live = await services_of(request).backend.registry.workers()
    return json_response({"workers": live})


@router.get("/metrics", summary="Metrics", responses={200: TEXT})
async def metrics(request: Request) -> Response:
    """Prometheus text; with `Accept: application/json` the machine's load as KAITO tells it."""
    if prefers(request, "application/json", "text/plain"):
        return json_response(system_info())
    services = services_of(request)
    await refresh_gauges(services)
    return Response(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def refresh_gauges(services: Services) -> None:
    """Without Redis its gauges keep their last values; `falconer_redis_up` says so."""
    try:
        async with within_reach(SCRAPE_REACH_S):
            depth = await services.backend.queue.depth()
            totals = await services.backend.queue.totals()
            live = await services.backend.registry.workers()
    except ServiceUnavailable:
        services.metrics.redis_up.set(0)
        return
    services.metrics.redis_up.set(1)
    services.metrics.note_service(depth, totals, len(live))
