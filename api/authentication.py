"""Find the caller of a request by its API key, and check that the route is open to that caller.

The decision depends on the route that FastAPI chose, so no spelling of a path can avoid it.
"""

from collections.abc import Callable

from fastapi import Request

from api.services import app_services, set_caller
from shared.access.api_keys import ApiKey, Caller
from shared.errors import Forbidden, Unauthorized

# Routes that need no key: probes, and the description of the interface.
PROBES = {"/", "/health", "/healthz", "/livez", "/readyz"}
OPEN_PATHS = PROBES | {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
ADMIN_ROUTES = {
    "DELETE /jobs",
    "GET /metrics",
    "GET /workers",
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
}
ANYBODY = Caller(name="?", is_admin=False)  # no key can have this name
CHALLENGE = 'Bearer realm="falconer"'


async def authenticate(request: Request) -> None:
    """Note the caller of a request. Raises Unauthorized and Forbidden.

    A dependency of every route.
    """
    keys = app_services(request).keys
    path = request.scope["route"].path
    if keys is None:
        set_caller(request, Caller())
    elif path in OPEN_PATHS:
        set_caller(request, ANYBODY)
    else:
        caller = caller_of(presented_secret(request), keys.ring.find)
        method = "GET" if request.method == "HEAD" else request.method
        if f"{method} {path}" in ADMIN_ROUTES and not caller.is_admin:
            raise Forbidden(
                "this route needs the API key of an admin",
                headers=challenge("insufficient_scope"),
            )
        set_caller(request, caller)


def caller_of(secret: str | None, find: Callable[[str], ApiKey | None]) -> Caller:
    """Return the caller of a valid key. Raises Unauthorized."""
    if secret is None:
        raise Unauthorized(
            "an API key is required: send the header Authorization: Bearer KEY, or X-API-Key",
            headers={"WWW-Authenticate": CHALLENGE},
        )
    key = find(secret)
    if key is None or key.has_expired:
        reason = "is not known" if key is None else "has expired"
        raise Unauthorized(f"the API key {reason}", headers=challenge("invalid_token"))
    return Caller.of(key)


def presented_secret(request: Request) -> str | None:
    """Return the key of a request; None without one.

    Raises Unauthorized for two different keys: a proxy may have checked the other one.
    """
    given = {value.strip() for value in request.headers.getlist("x-api-key")}
    for value in request.headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            given.add(token.strip())
    given.discard("")
    if len(given) > 1:
        raise Unauthorized(
            "the API key must be given once, got different ones",
            headers=challenge("invalid_request"),
        )
    return given.pop() if given else None


def challenge(error: str) -> dict[str, str]:
    """Return the header of RFC 6750 with the reason of a refusal."""
    return {"WWW-Authenticate": f'{CHALLENGE}, error="{error}"'}
