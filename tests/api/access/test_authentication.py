"""API keys: which routes need which key, how a request carries it, and how the file changes."""

import asyncio
import os
from pathlib import Path

import pytest

from api.authentication import ADMIN_ROUTES, OPEN_PATHS
from api.settings import ApiSettings
from shared.access.api_keys import ApiKey, digest_of, new_secret
from shared.access.key_file import WatchedKeys, change_keys, read_keys
from shared.errors import SettingsError
from shared.process.settings import load_settings
from tests.api.access.callers import Callers, Headers, bearer, routes_of, secret_of
from tests.api.api_process import run_to_its_end
from tests.fakes_api import FakeService, fake_service


def is_open(path: str) -> bool:
    return path in OPEN_PATHS


# -- routes ---------------------------------------------------------------------------


async def test_every_route_but_the_probes_needs_a_key(guarded: FakeService, keys: Callers) -> None:
    for method, path in routes_of(guarded):
        for headers in ({}, bearer("fal_guess"), keys.expired):
            response = await guarded.http.request(method, path, headers=headers)
            assert (response.status_code == 401) is not is_open(path), (method, path, headers)
            if response.status_code == 401:
                assert response.headers["WWW-Authenticate"].startswith("Bearer ")


async def test_routes_of_admins_are_closed_to_users(guarded: FakeService, keys: Callers) -> None:
    closed = set()
    for method, path in routes_of(guarded):
        response = await guarded.http.request(method, path, headers=keys.alice)
        if response.status_code == 403:
            closed.add(f"{method} {path}")
    assert closed == ADMIN_ROUTES | {"HEAD /metrics", "HEAD /workers"}
    assert (await guarded.http.get("/metrics", headers=keys.admin)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/metrics%0A", "/metrics/", "/./metrics", "/%6detrics", "//metrics"]
)
async def test_no_spelling_of_a_path_avoids_the_check(
    guarded: FakeService, keys: Callers, path: str
) -> None:
    assert (await guarded.http.get(f"http://api{path}")).status_code in (401, 404)
    allowed = await guarded.http.get(f"http://api{path}", headers=keys.alice)
    assert allowed.status_code in (403, 404)


async def test_each_interface_has_its_own_error(guarded: FakeService, keys: Callers) -> None:
    ours = await guarded.http.post("/chat", json={"prompt": "hello"})
    assert "API key is required" in ours.json()["detail"]
    openai = await guarded.http.post("/v1/chat/completions", headers=bearer("sk-wrong"))
    error = openai.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_api_key", None)
    assert "sk-wrong" not in openai.text
    refused = await guarded.http.post("/v1/load_lora_adapter", headers=keys.alice)
    assert refused.json()["error"]["code"] == "insufficient_permissions"


# -- headers --------------------------------------------------------------------------


async def test_a_key_may_be_in_either_header(guarded: FakeService, keys: Callers) -> None:
    secret = secret_of(keys.alice)
    for headers in (
        {"X-API-Key": secret},
        {"authorization": f"bearer  {secret}"},
        {"X-API-Key": secret, "Authorization": f"Bearer {secret}"},
        {"X-API-Key": secret, "Authorization": "Basic dXNlcjpwYXNz"},
    ):
        assert (await guarded.http.get("/jobs", headers=headers)).status_code == 200, headers


async def test_two_different_keys_in_a_request_are_refused(
    guarded: FakeService, keys: Callers
) -> None:
    """A proxy may have checked a key that the api would ignore."""
    user, admin = (one["Authorization"] for one in (keys.alice, keys.admin))
    for headers in (
        [("Authorization", user), ("Authorization", admin)],
        [("Authorization", user), ("X-API-Key", admin.split()[1])],
        [("X-API-Key", "a"), ("X-API-Key", admin.split()[1])],
        [("X-API-Key", f"{user.split()[1]}, {admin.split()[1]}")],
        [("Authorization", f"Basic {admin.split()[1]}")],
        [("Authorization", admin.split()[1])],
        [("Authorization", "Bearer ")],
        [("Cookie", admin)],
        [("Authorization_", admin)],
    ):
        response = await guarded.http.get("/jobs", headers=headers)
        assert response.status_code == 401, headers
    assert (await guarded.http.get(f"/jobs?api_key={admin.split()[1]}")).status_code == 401


# -- the file -------------------------------------------------------------------------


async def until_status(service: FakeService, headers: Headers, status: int) -> None:
    for _ in range(6000):
        if (await service.http.get("/jobs", headers=headers)).status_code == status:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the key never got a {status}")


async def test_a_change_of_the_file_needs_no_restart(guarded: FakeService, keys: Callers) -> None:
    secret = new_secret()
    change_keys(keys.file, lambda _: [ApiKey(name="bob", sha256=digest_of(secret))])
    await until_status(guarded, bearer(secret), 200)
    assert (await guarded.http.get("/jobs", headers=keys.alice)).status_code == 401


@pytest.mark.parametrize("broken", [b"", b'{"keys": [{"name": "x"}]}', b"\xff", None])
async def test_a_broken_file_leaves_the_last_keys_in_force(
    keys: Callers, broken: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fake_service(settings=ApiSettings(keys_file=keys.file)) as service:
        watched = service.services.keys
        assert watched is not None
        if broken is None:
            keys.file.unlink()
        else:
            keys.file.write_bytes(broken)
        for _ in range(3):
            watched.refresh()
        assert (await service.http.get("/jobs", headers=keys.alice)).status_code == 200
    assert capsys.readouterr().out.count("keeping the last valid keys") == 1


def test_a_replaced_link_counts_as_a_change(keys: Callers, tmp_path: Path) -> None:
    """As Kubernetes replaces the files of a Secret."""
    link, other = tmp_path / "link.json", tmp_path / "other.json"
    link.symlink_to(keys.file)
    settings = ApiSettings(keys_file=link)
    assert settings.keys_file is not None
    watched, secret = WatchedKeys(settings.keys_file), new_secret()
    change_keys(other, lambda _: [ApiKey(name="bob", sha256=digest_of(secret))])
    next_link = tmp_path / "next"
    next_link.symlink_to(other)
    os.replace(next_link, link)
    watched.refresh()
    assert watched.ring.find(secret) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"keys": [{"name": "a b", "sha256": "%s"}]}' % ("0" * 64), "name"),
        ('{"keys": [{"name": "a", "sha256": "abc"}]}', "sha256"),
        ('{"keys": [{"name": "a", "sha256": "%s", "rolle": "user"}]}' % ("0" * 64), "rolle"),
        ('{"keys": [{"name": "a", "sha256": "%s", "role": "boss"}]}' % ("0" * 64), "role"),
        ('{"keys": [{"name": "a", "sha256": "%s\\n"}]}' % ("0" * 64), "sha256"),
    ],
)
def test_an_invalid_file_stops_the_start(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        read_keys(file)


# -- without keys ---------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_without_keys_the_api_serves_loopback(host: str) -> None:
    assert load_settings(ApiSettings, {"host": host}).host == host


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "falconer.example", "::ffff:10.0.0.1"]
)
def test_without_keys_another_address_must_be_allowed(host: str, keys: Callers) -> None:
    with pytest.raises(SettingsError, match=r"--keys-file .* or --insecure"):
        load_settings(ApiSettings, {"host": host})
    for flags in ({"insecure": True}, {"keys_file": str(keys.file)}):
        assert load_settings(ApiSettings, {"host": host} | flags).host == host


def test_the_process_names_the_flag_in_one_line() -> None:
    ended = run_to_its_end("--host", "0.0.0.0")
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "--insecure" in line
