"""A key sees, changes and uses only its own jobs, responses, files and batches; an admin sees all.

The routes come from the application: a new route with an id in its path fails here until the table
of ids knows it.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.settings import ApiSettings
from shared.protocol import JobStatus
from shared.queue.keys import Keys
from tests.api.access.callers import Callers, Headers, routes_of, secret_of
from tests.fakes_api import FakeService, fake_service

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"}}\n'
SHARED = {"/v1/models/{model_id:path}"}  # models belong to no key
BODIES: dict[str, Any] = {"continue": {"max_new_tokens": 1}, "fork": {"at": 0}}
ID = re.compile(r"\{(\w+)\}")


async def ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code in (200, 202), response.text
    body: dict[str, Any] = response.json()
    return body


async def upload(service: FakeService, headers: Headers) -> str:
    files = {"file": ("in.jsonl", LINE)}
    sent = service.http.post("/v1/files", data={"purpose": "batch"}, files=files, headers=headers)
    return str((await ok(await sent))["id"])


async def make_all(service: FakeService, headers: Headers) -> dict[str, str]:
    """Create one of everything; return the ids by the names of path parameters."""

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await ok(await service.http.post(path, json=body, headers=headers))

    job = await post("/jobs", {"prompt": "hello"})
    await ok(await service.http.get(f"/jobs/{job['id']}?wait=60", headers=headers))
    response = await post("/v1/responses", {"input": "hi", "stream": False})
    file_id = await upload(service, headers)
    batch = await post(
        "/v1/batches",
        {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"},
    )
    return {
        "job_id": job["id"],
        "response_id": response["id"],
        "file_id": file_id,
        "batch_id": batch["id"],
    }


@pytest.fixture
async def of_alice(guarded: FakeService, keys: Callers) -> AsyncIterator[dict[str, str]]:
    yield await make_all(guarded, keys.alice)


def with_ids(path: str, ids: dict[str, str]) -> str:
    return ID.sub(lambda found: ids[found[1]], path)


async def call(
    service: FakeService, method: str, path: str, ids: dict[str, str], headers: Headers
) -> httpx.Response:
    body = BODIES.get(path.rpartition("/")[2])
    return await service.http.request(method, with_ids(path, ids), json=body, headers=headers)


async def test_ids_of_another_key_are_unknown_on_every_route(
    guarded: FakeService, keys: Callers, of_alice: dict[str, str]
) -> None:
    """Each answer equals that to an id which never existed."""
    made_up = {name: "0" * 32 for name in of_alice}
    routes = [one for one in routes_of(guarded) if "{" in one[1] and one[1] not in SHARED]
    assert len(routes) >= 20
    for method, path in routes:
        refused = await call(guarded, method, path, of_alice, keys.bob)
        assert refused.status_code == 404, (method, path, refused.text)
        unknown = await call(guarded, method, path, made_up, keys.bob)
        assert unknown.status_code == 404
        shown = re.sub(r"(file-|batch_|resp_)?[0-9a-f]{32}", "ID", refused.text)
        assert shown == re.sub(r"(file-|batch_|resp_)?[0-9a-f]{32}", "ID", unknown.text)
    for name, path in (("job_id", "/jobs/"), ("file_id", "/v1/files/")):
        await ok(await guarded.http.get(path + of_alice[name], headers=keys.alice))
    job = await ok(await guarded.http.get(f"/jobs/{of_alice['job_id']}", headers=keys.alice))
    assert (job["status"], job["owner"]) == (JobStatus.SUCCEEDED, "alice")


async def test_an_owner_and_an_admin_see_what_the_owner_made(
    guarded: FakeService, keys: Callers, of_alice: dict[str, str]
) -> None:
    for method, path in routes_of(guarded):
        if "{" in path and path not in SHARED and method == "GET":
            for headers in (keys.alice, keys.admin):
                response = await call(guarded, method, path, of_alice, headers)
                assert response.status_code == 200, (path, response.text)


async def test_ids_in_bodies_are_checked_too(
    guarded: FakeService, keys: Callers, of_alice: dict[str, str]
) -> None:
    batch = {"input_file_id": of_alice["file_id"], "endpoint": "/v1/completions"}
    body = batch | {"completion_window": "24h"}
    refused = await guarded.http.post("/v1/batches", json=body, headers=keys.bob)
    assert refused.status_code == 404
    for path in ("/v1/responses", "/v1/responses/input_tokens"):
        body = {"input": "go on", "previous_response_id": of_alice["response_id"]}
        refused = await guarded.http.post(path, json=body, headers=keys.bob)
        assert refused.json()["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("path", ["/jobs", "/v1/files", "/v1/batches"])
async def test_a_list_shows_what_its_caller_may_see(
    guarded: FakeService, keys: Callers, of_alice: dict[str, str], path: str
) -> None:
    of_bob = await make_all(guarded, keys.bob)

    async def listed(headers: Headers) -> set[str]:
        found: set[str] = set()
        cursor = ""
        while True:
            answer = await ok(await guarded.http.get(f"{path}?limit=1{cursor}", headers=headers))
            page = answer.get("jobs") or answer.get("data") or []
            found |= {one["id"] for one in page}
            if path == "/jobs" and answer["cursor"]:
                cursor = f"&cursor={answer['cursor']}"
            elif answer.get("has_more"):
                cursor = f"&after={answer['last_id']}"
            else:
                return found

    name = {"/jobs": "job_id", "/v1/files": "file_id", "/v1/batches": "batch_id"}[path]
    alice, bob, everyone = [await listed(one) for one in (keys.alice, keys.bob, keys.admin)]
    assert of_alice[name] in alice and of_bob[name] in bob
    assert not alice & bob
    assert alice | bob <= everyone


async def test_an_idempotency_key_finds_no_job_of_another_api_key(
    guarded: FakeService, keys: Callers
) -> None:
    for path, body in (
        ("/jobs", {"prompt": "hello"}),
        (
            "/v1/batches",
            {
                "endpoint": "/v1/completions",
                "requests": [{"custom_id": "a", "body": {"prompt": "x"}}],
            },
        ),
    ):
        ids = [
            (
                await ok(
                    await guarded.http.post(path, json=body, headers=one | {"Idempotency-Key": "k"})
                )
            )["id"]
            for one in (keys.alice, keys.alice, keys.bob, keys.admin)
        ]
        assert ids[0] == ids[1]
        assert len(set(ids)) == 3


async def test_reuse_takes_no_tokens_of_another_key(guarded: FakeService, keys: Callers) -> None:
    body = {"prompt": "hello", "reuse": "finished", "generate_kwargs": {"do_sample": False}}

    async def reused(headers: Headers) -> str | None:
        response = await guarded.http.post("/chat", json=body, headers=headers)
        await ok(response)
        return response.headers.get("Falconer-Reuse")

    assert await reused(keys.alice) is None
    assert await reused(keys.bob) is None
    assert await reused(keys.admin) is None
    assert await reused(keys.alice) == "finished"


async def test_a_waiting_job_is_cancelled_only_by_its_owner_or_an_admin(keys: Callers) -> None:
    settings = ApiSettings(keys_file=keys.file)
    async with fake_service(settings=settings, with_worker=False) as service:
        for canceller in (keys.alice, keys.admin):
            job = await ok(
                await service.http.post("/jobs", json={"prompt": "hello"}, headers=keys.alice)
            )
            path = f"/jobs/{job['id']}"
            assert (await service.http.delete(path, headers=keys.bob)).status_code == 404
            assert (await ok(await service.http.get(path, headers=keys.alice)))[
                "status"
            ] == "queued"
            ended = await ok(await service.http.delete(path, headers=canceller))
            assert ended["status"] == "cancelled"
            assert (await service.http.post(f"{path}/retry", headers=keys.bob)).status_code == 404
            retried = await ok(await service.http.post(f"{path}/retry", headers=keys.admin))
            assert retried["retry_of"] == job["id"]
            retry = await ok(await service.http.get(f"/jobs/{retried['id']}", headers=keys.alice))
            assert retry["owner"] == "alice"


async def test_the_lines_and_files_of_a_batch_belong_to_its_key(
    guarded: FakeService, keys: Callers, of_alice: dict[str, str]
) -> None:
    path = f"/v1/batches/{of_alice['batch_id']}"
    for _ in range(3000):
        batch = await ok(await guarded.http.get(path, headers=keys.alice))
        if batch["status"] == "completed":
            break
        await asyncio.sleep(0.02)
    assert batch["status"] == "completed", batch
    answers = f"/v1/files/{batch['output_file_id']}/content"
    assert (await guarded.http.get(answers, headers=keys.bob)).status_code == 404
    assert b'"custom_id":"a"' in (await guarded.http.get(answers, headers=keys.alice)).content
    owners = {job.owner for job in guarded.worker.seen}
    assert owners == {"alice"}


async def test_the_list_of_an_owner_keeps_the_input_of_a_batch_and_no_deleted_file(
    guarded: FakeService, keys: Callers, of_alice: dict[str, str]
) -> None:
    file_id, files_of_alice = of_alice["file_id"], Keys().files_of("alice")
    await guarded.redis.expire(files_of_alice, 60)
    batch = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "30d"}
    kept = await ok(await guarded.http.post("/v1/batches", json=batch, headers=keys.alice))
    seconds, _ = await guarded.redis.time()
    assert await guarded.redis.ttl(files_of_alice) >= kept["expires_at"] - seconds
    assert await guarded.redis.zscore(files_of_alice, file_id) is not None
    await ok(await guarded.http.delete(f"/v1/files/{file_id}", headers=keys.alice))
    assert await guarded.redis.zscore(files_of_alice, file_id) is None


async def test_no_key_is_in_redis_in_the_metrics_or_in_the_log(
    guarded: FakeService, keys: Callers, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_all(guarded, keys.alice)
    secret = secret_of(keys.alice)
    stored = b""
    for key in await guarded.redis.keys():
        stored += key + (await guarded.redis.dump(key) or b"")
    assert b"alice" in stored and secret.encode() not in stored
    metrics = await guarded.http.get("/metrics", headers=keys.admin)
    assert secret not in metrics.text and "alice" not in metrics.text
    output = capsys.readouterr()
    assert secret not in output.out + output.err


async def test_the_jobs_of_a_service_before_it_had_keys_are_for_admins(keys: Callers) -> None:
    async with fake_service() as before:
        job = await ok(await before.http.post("/jobs", json={"prompt": "hello"}))
        settings = ApiSettings(keys_file=keys.file)
        async with fake_service(
            settings=settings, server=before.server, with_worker=False
        ) as later:
            path = f"/jobs/{job['id']}"
            assert (await later.http.get(path, headers=keys.alice)).status_code == 404
            assert (await later.http.get(path, headers=keys.admin)).status_code == 200
