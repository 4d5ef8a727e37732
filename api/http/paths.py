"""Map the path of a request to the path of a route, and back.

A proxy may serve the API below a prefix, and may strip the prefix from the path or not. The
application gets both in ASGI's form: `root_path` is the prefix, and `path` begins with it.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Annotated

from pydantic import AfterValidator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.settings import PREFIX, ApiSettings

ORIGIN = re.compile("^https?://[^/]*")
ANSWER_PREFIX = re.compile("^(chatcmpl-|cmpl-|resp_)")


class RoutePaths:
    """ASGI middleware that rewrites the path and `root_path` of each request.

    It removes a trailing slash, because many clients follow a redirect without the body. It
    removes the origin that clients send to a proxy, as RFC 9112 (3.2.2) demands.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings, route_paths: Iterable[str]) -> None:
        self._app = app
        self._prefix = settings.root_path or ""
        self._proxies = settings.proxies
        self._first_segments = {first_segment(path) for path in route_paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prefix = self._prefix_of(scope)
            path = (
                self._strip_prefix(prefix, ORIGIN.sub("", scope["path"])).removesuffix("/") or "/"
            )
            scope = {**scope, "root_path": prefix, "path": prefix + path}
        await self._app(scope, receive, send)

    def _prefix_of(self, scope: Scope) -> str:
        """Return the prefix that trusted proxies sent, joined, or that of the settings."""
        forwarded = Headers(scope=scope).getlist("x-forwarded-prefix")
        if not forwarded or not self._trusts(scope):
            return self._prefix
        parts = [part.strip().removesuffix("/") for part in ",".join(forwarded).split(",")]
        prefix = "".join(parts)
        return prefix if PREFIX.fullmatch(prefix) else self._prefix

    def _trusts(self, scope: Scope) -> bool:
        if self._proxies is None:
            return True
        address = ip_address((scope["client"] or ("::",))[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._proxies)

    def _strip_prefix(self, prefix: str, path: str) -> str:
        """Return the path without the prefix, which the proxy may have stripped.

        The proxy must strip a prefix such as /chat, which begins a path of the API too.
        """
        is_below = path == prefix or path.startswith(prefix + "/")
        if not prefix or not is_below or first_segment(prefix) in self._first_segments:
            return path
        return path.removeprefix(prefix)


def first_segment(path: str) -> str:
    return path.split("/")[1]


def route_path(scope: Scope) -> str:
    """Return the path of the route, without the prefix."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def without_answer_prefix(job_id: str) -> str:
    """Return the job's id for that of an answer below `/v1`, which begins with its kind."""
    return ANSWER_PREFIX.sub("", job_id)


JobId = Annotated[str, AfterValidator(without_answer_prefix)]  # in a path


def job_path(scope: Scope, job_id: str) -> str:
    """Return the path of a job for the client of this request."""
    return f"{scope.get('root_path', '')}/jobs/{job_id}"
