"""The ASGI application that a server runs: FastAPI behind the middleware of all its routes.

It wraps FastAPI from outside, because the answer to an unexpected failure is sent outside of
FastAPI's own middleware, and needs the CORS headers too.
"""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from api.app import paths_of
from api.http.paths import RoutePaths
from api.settings import ApiSettings

METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED = ("Location", "Retry-After", "Preference-Applied")


def asgi_app(app: FastAPI, settings: ApiSettings) -> ASGIApp:
    routed = RoutePaths(app, settings, paths_of(app))
    if not settings.cors_origins:
        return routed
    return CORSMiddleware(
        routed,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=METHODS,
        allow_headers=("*",),
        allow_private_network=True,  # the operator named the origins, wherever they are
        expose_headers=EXPOSED,
    )
