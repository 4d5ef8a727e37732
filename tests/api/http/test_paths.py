"""Paths with a trailing slash, and behind a proxy with a prefix."""

import re
from ipaddress import ip_network

import httpx
import pytest

from api.settings import ApiSettings
from shared.errors import SettingsError
from shared.process.settings import load_settings
from tests.api.job_events import run_job, run_response
from tests.fakes_api import FakeService, fake_service

FORWARDED = "X-Forwarded-Prefix"


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_a_trailing_slash_is_ignored_in_a_post(service: FakeService, path: str) -> None:
    plain = await service.http.post(path, json={"prompt": "hello"})
    slashed = await service.http.post(path + "/", json={"prompt": "hello"})
    assert plain.status_code == slashed.status_code
    assert plain.json().keys() == slashed.json().keys()


async def test_a_trailing_slash_is_ignored_in_every_get(service: FakeService) -> None:
    job_id = await run_response(service)
    line = {"custom_id": "1", "body": {"prompt": "hello"}}
    file = await service.http.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", b"{}")}
    )
    batch = await service.http.post(
        "/v1/batches",
        json={"requests": [line], "endpoint": "/v1/completions", "completion_window": "1h"},
    )
    assert (file.status_code, batch.status_code) == (200, 200)
    paths = [path for path, methods in service.app.openapi()["paths"].items() if "get" in methods]
    assert len(paths) >= 12
    for template in [*paths, "/docs", "/openapi.json", "/nowhere"]:
        path = template.format(
            job_id=job_id,
            response_id=job_id,
            model_id="letters",
            file_id=file.json()["id"],
            batch_id=batch.json()["id"],
        )
        plain, slashed = [await service.http.get(path + end) for end in ("", "/")]
        assert plain.status_code == slashed.status_code, path
        assert plain.headers["content-type"] == slashed.headers["content-type"]


async def test_a_trailing_slash_is_ignored_in_other_methods(service: FakeService) -> None:
    job_id = await run_job(service)
    assert (await service.http.delete(f"/jobs/{job_id}/")).json()["id"] == job_id
    assert (await service.http.post(f"/jobs/{job_id}/retry/")).status_code == 409
    assert (await service.http.delete("/jobs/?status=queued")).status_code == 200


async def test_metrics_count_requests_by_route(service: FakeService) -> None:
    await service.http.get("/jobs/")
    await service.http.get("/jobs")
    text = (await service.http.get("/metrics")).text
    assert 'falconer_requests_total{code="200",route="/jobs"} 2.0' in text


# -- behind a prefix -------------------------------------------------------------------------


async def check_prefix(http: httpx.AsyncClient, prefix: str, *, keep: bool) -> None:
    """Follow every link of the API behind a proxy that keeps or strips the prefix."""

    async def get(path: str) -> httpx.Response:
        assert path.startswith(prefix + "/"), path
        return await http.get(path if keep else path.removeprefix(prefix))

    sent = await http.post((prefix if keep else "") + "/jobs/", json={"prompt": "hello"})
    assert sent.status_code == 202
    location = sent.headers["location"]
    assert (await get(location)).json()["id"] == sent.json()["id"]
    events = await get(location + "/events")
    assert events.headers["location"] == location
    for page in ("/docs", "/redoc"):
        text = (await get(prefix + page)).text
        links = re.findall(r'(?:src|href|url: |spec-url)=?[\s]*["\'](/[^"\']+)', text)
        assert prefix + "/openapi.json" in links
        assert len(links) >= 3
        for link in links:
            assert (await get(link)).status_code == 200, link
    document = (await get(prefix + "/openapi.json")).json()
    assert document["servers"] == [{"url": prefix}]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("root_path", ["/falcon", "/models/falcon-7b/"])
async def test_every_link_works_with_the_prefix_of_the_settings(root_path: str, keep: bool) -> None:
    async with fake_service(load_settings(ApiSettings, {"root_path": root_path})) as service:
        await check_prefix(service.http, root_path.removesuffix("/"), keep=keep)


@pytest.mark.parametrize("keep", [False, True])
async def test_every_link_works_with_the_prefix_of_a_proxy(
    service: FakeService, keep: bool
) -> None:
    service.http.headers[FORWARDED] = "/falcon"
    await check_prefix(service.http, "/falcon", keep=keep)


@pytest.mark.parametrize("prefix", ["/chat", "/v1", "/docs", "/jobs/all"])
async def test_a_stripped_prefix_may_equal_a_route(service: FakeService, prefix: str) -> None:
    service.http.headers[FORWARDED] = prefix
    await check_prefix(service.http, prefix, keep=False)


async def test_the_prefix_of_a_proxy_overrides_the_setting() -> None:
    async with fake_service(ApiSettings(root_path="/inner")) as service:
        service.http.headers[FORWARDED] = "/outer"
        await check_prefix(service.http, "/outer", keep=False)


@pytest.mark.parametrize("named", [["/a, /b/"], ["/a", "/b"]])
async def test_the_prefixes_of_several_proxies_are_joined(
    service: FakeService, named: list[str]
) -> None:
    headers = [(FORWARDED, value) for value in named]
    response = await service.http.post("/jobs", json={"prompt": "hello"}, headers=headers)
    assert response.headers["location"] == f"/a/b/jobs/{response.json()['id']}"


@pytest.mark.parametrize(
    "prefix",
    ["//evil.example.com", "http://evil.example.com", "/a/../b", "/a?b", '/"><script>', "a"],
)
async def test_an_invalid_prefix_is_ignored(service: FakeService, prefix: str) -> None:
    headers = {FORWARDED: prefix}
    response = await service.http.post("/jobs", json={"prompt": "hello"}, headers=headers)
    assert response.headers["location"] == f"/jobs/{response.json()['id']}"


@pytest.mark.parametrize(
    ("client", "trusted", "counts"),
    [
        ("127.0.0.1", None, True),
        ("10.1.2.3", None, False),
        ("10.1.2.3", "127.0.0.1, 10.0.0.0/8", True),
        ("11.1.2.3", "127.0.0.1, 10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("::1", "::1", True),
        ("11.1.2.3", "*", True),
    ],
)
async def test_only_the_prefix_of_a_trusted_proxy_is_used(
    client: str, trusted: str | None, counts: bool
) -> None:
    settings = load_settings(ApiSettings, {"forwarded_allow_ips": trusted})
    async with fake_service(settings) as service:
        transport = httpx.ASGITransport(service.asgi, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
            answer = await http.get("/openapi.json", headers={FORWARDED: "/falcon"})
    assert ("servers" in answer.json()) is counts


async def test_errors_below_v1_have_openais_form_behind_a_prefix(
    service: FakeService,
) -> None:
    for path in ("/v1/models/unknown", "/falcon/v1/models/unknown", "/falcon/v1/nowhere"):
        response = await service.http.get(path, headers={FORWARDED: "/falcon"})
        assert response.status_code == 404
        assert "message" in response.json()["error"]


async def test_the_bare_prefix_is_the_root(service: FakeService) -> None:
    for path in ("/falcon", "/falcon/"):
        response = await service.http.get(path, headers={FORWARDED: "/falcon"})
        assert response.json() == {"message": "Server is running"}
    other = await service.http.get("/falconry", headers={FORWARDED: "/falcon"})
    assert other.status_code == 404


@pytest.mark.parametrize("wrong", ["falcon", "//falcon", "/fal con", "/../x", "https://x/falcon"])
def test_an_invalid_root_path_is_rejected(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"--root-path .* must be a path such as /falcon"):
        load_settings(ApiSettings, {"root_path": wrong})


@pytest.mark.parametrize("wrong", ["proxy.example.com", "10.0.0.0/33", "10.0.0.1/8"])
def test_an_invalid_proxy_is_rejected(wrong: str) -> None:
    with pytest.raises(SettingsError, match=f"--forwarded-allow-ips .*{re.escape(wrong)}"):
        load_settings(ApiSettings, {"forwarded_allow_ips": f"127.0.0.1,{wrong}"})


def test_a_single_slash_is_an_empty_prefix() -> None:
    settings = load_settings(ApiSettings, {"root_path": "/", "forwarded_allow_ips": "10.0.0.0/8"})
    assert settings.root_path is None
    assert settings.proxies == [ip_network("10.0.0.0/8")]
