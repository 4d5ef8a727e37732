"""Assemble the application from its routes, services and middleware."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Scope

from api.authentication import authenticate
from api.batches.line_jobs import LineJobs
from api.batches.runner import BatchRunner
from api.http.body import BodyLength
from api.http.errors import failure_response, install_error_handlers
from api.http.paths import RoutePaths
from api.jobs.admission import Admission
from api.jobs.derived_jobs import DerivedJobs
from api.jobs.job_client import JobClient
from api.jobs.pending_cancellations import PendingCancellations
from api.jobs.redis_services import Connect, RedisServices
from api.jobs.served_models import ServedModels
from api.jobs.tokenization import Tokenization
from api.metrics import MeteredApp, Metrics
from api.openapi import openapi_of
from api.routes import chat, derived, estimate, events, jobs, ops, tokenizer
from api.routes.v1 import adapters, batches, completions, files, models, responses
from api.services import Services
from api.settings import ApiSettings
from shared.access.key_file import WatchedKeys
from shared.redis.client import connect as connect_redis
from shared.version import falconer_version

CORS_METHODS = ("GET", "HEAD", "POST", "DELETE")
CORS_HEADERS = (
    "Location",
    "Retry-After",
    "Preference-Applied",
    "X-Request-Id",
    "X-Should-Retry",
    "Falconer-Reuse",
    "WWW-Authenticate",
)

ROUTERS = [
    module.router
    for module in (
        chat,
        jobs,
        derived,
        events,
        estimate,
        completions,
        responses,
        files,
        batches,
        models,
        adapters,
        tokenizer,
        ops,
    )
]


def create_app(settings: ApiSettings, connect: Connect = connect_redis) -> FastAPI:
    """Create the app; nothing is sent to Redis before it starts. Raises SettingsError."""
    services = make_services(settings, connect)
    app = FastAPIOffline(  # /docs loads nothing from other servers
        title="Falconer",
        version=falconer_version(),
        description="Falcon language models behind a queue.",
        lifespan=lifespan,
        dependencies=[Depends(authenticate)],
        redirect_slashes=False,  # 404 for an unknown path, not 307
    )
    app.state.services = services
    for router in ROUTERS:
        app.include_router(router)
    add_head_routes(app)
    install_error_handlers(app)
    set_allow_header(app)
    app.add_middleware(MeteredApp, metrics=services.metrics)
    vars(app)["openapi"] = openapi_of(app)  # replaces the method, as FastAPI documents
    return app


def asgi_app(app: FastAPI, settings: ApiSettings) -> ASGIApp:
    """Wrap the app in the middleware that the server runs.

    FastAPI sends the response to an unexpected error outside of its own middleware. That response
    needs the CORS headers too.
    """
    routed = RoutePaths(BodyLength(app), settings, paths_of(app))
    if not settings.cors_origins:
        return routed
    return CORSMiddleware(
        routed,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=CORS_METHODS,
        allow_headers=("*",),
        allow_private_network=True,  # the operator named the origins, wherever they are
        expose_headers=CORS_HEADERS,
    )


def all_routes(app: FastAPI) -> list[BaseRoute]:
    return [*app.routes, *(route for router in ROUTERS for route in router.routes)]


def paths_of(app: FastAPI) -> set[str]:
    """Return the paths of all routes, including the pages and their assets."""
    return {route.path for route in all_routes(app) if isinstance(route, Route | Mount)}


def add_head_routes(app: FastAPI) -> None:
    """Add HEAD to each GET route; the server omits the body of the response."""
    for route in all_routes(app):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def set_allow_header(app: FastAPI) -> None:
    """Make `Allow` in a 405 list every method of the path: each method has its own route."""
    routes = all_routes(app)

    @app.exception_handler(405)
    async def _not_allowed(request: Request, error: HTTPException) -> Response:
        headers = {"Allow": ", ".join(sorted(methods_at(request.scope, routes)))}
        return failure_response(request, error.status_code, error.detail, headers=headers)


def methods_at(scope: Scope, routes: Iterable[BaseRoute]) -> set[str]:
    """Return the methods of the routes at this path, or of the file mount without a route."""
    methods: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return methods or {"GET", "HEAD"}


def make_services(settings: ApiSettings, connect: Connect) -> Services:
    redis, metrics = RedisServices(settings, connect), Metrics(has_models=bool(settings.models))
    models = ServedModels(redis, settings.model_names, metrics)
    tokenization = Tokenization()
    admission = Admission(models, tokenization, settings.max_ttl_s)
    cancellations = PendingCancellations(redis.queue)
    client = JobClient(redis, admission, cancellations, settings)
    jobs = LineJobs(redis, client, settings.model_names)
    batches = BatchRunner(redis, jobs, settings.max_body_bytes)
    derived = DerivedJobs(redis, models, admission, cancellations, settings)
    return Services(
        settings,
        redis,
        models,
        tokenization,
        cancellations,
        metrics,
        client,
        derived,
        batches,
        None if settings.keys_file is None else WatchedKeys(settings.keys_file),
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    services.start()
    yield
    await services.stop()
