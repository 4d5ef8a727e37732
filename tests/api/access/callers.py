"""A file of keys, and the headers of the callers that have them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from fastapi.routing import APIRoute

from api.app import all_routes
from shared.access.api_keys import ApiKey, Role, digest_of, new_secret
from shared.access.key_file import change_keys
from tests.fakes_api import FakeService

Headers = dict[str, str]


class Callers(NamedTuple):
    """The file, and the headers of each caller."""

    file: Path
    alice: Headers
    bob: Headers
    admin: Headers
    expired: Headers


def bearer(secret: str) -> Headers:
    return {"Authorization": f"Bearer {secret}"}


def secret_of(headers: Headers) -> str:
    return headers["Authorization"].split()[1]


def write_keys(file: Path, **of_alice: Any) -> Callers:
    """Write the file, with these fields of one key."""
    secrets = [new_secret() for _ in range(4)]
    alice, bob, admin, expired = (digest_of(secret) for secret in secrets)
    past = datetime.now(UTC) - timedelta(seconds=1)
    keys = [
        ApiKey(name="alice", sha256=alice, **of_alice),
        ApiKey(name="bob", sha256=bob),
        ApiKey(name="root", sha256=admin, role=Role.ADMIN),
        ApiKey(name="old", sha256=expired, role=Role.ADMIN, expires_at=past),
    ]
    change_keys(file, lambda _: keys)
    return Callers(file, *(bearer(secret) for secret in secrets))


def routes_of(service: FakeService) -> list[tuple[str, str]]:
    """Return method and path of every route of the interface."""
    found = {
        (method, route.path)
        for route in all_routes(service.app)
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert len(found) > 50
    return sorted(found)
