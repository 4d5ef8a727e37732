"""The ASGI application that a server runs: FastAPI behind the middleware of all its routes.

It wraps FastAPI from outside, because the answer to an unexpected failure is sent outside of
FastAPI's own middleware, and needs the CORS headers too.
"""

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import paths_of
from api.errors import failure_response
from api.http.paths import RoutePaths
from api.settings import ApiSettings

METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED = ("Location", "Retry-After", "Preference-Applied")
BODY_LENGTHS = {b"content-length", b"transfer-encoding"}


def asgi_app(app: FastAPI, settings: ApiSettings) -> ASGIApp:
    routed = RoutePaths(BodyLength(app), settings, paths_of(app))
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


class BodyLength:
    """ASGI middleware that rejects a request with two body lengths.

    A proxy that uses the other length would pass on the rest of the body as another request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and BODY_LENGTHS <= {name for name, _ in scope["headers"]}:
            message = "must not be sent together with Transfer-Encoding"
            app = failure_response(
                Request(scope),
                400,
                message,
                field="Content-Length",
                headers={"Connection": "close"},
            )
        await app(scope, receive, send)
