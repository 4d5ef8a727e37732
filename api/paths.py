"""From the path that a client used to the path of a route: without a trailing slash."""

from starlette.types import ASGIApp, Receive, Scope, Send


class RoutePaths:
    """ASGI middleware. A redirect would cost some clients the body of their POST."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removesuffix("/") or "/"}
        await self._app(scope, receive, send)
