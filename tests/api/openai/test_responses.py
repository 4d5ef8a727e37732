"""`/v1/responses`: create, retrieve, cancel, delete and continue, on every replica."""

import asyncio
from typing import Any

import pytest
from openai.types.responses import Response

from api.settings import ApiSettings
from tests.api.job_events import claim_job
from tests.fakes_api import FakeService, abandoned_call, fake_service

PATH = "/v1/responses"


async def create(service: FakeService, **fields: Any) -> dict[str, Any]:
    response = await service.http.post(PATH, json={"input": "hi"} | fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    Response.model_validate(body)
    return body


async def get(service: FakeService, response_id: str) -> dict[str, Any]:
    response = await service.http.get(f"{PATH}/{response_id}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    Response.model_validate(body)
    return body


async def until_status(service: FakeService, response_id: str, status: str) -> dict[str, Any]:
    for _ in range(3000):
        response = await get(service, response_id)
        if response["status"] == status:
            return response
        await asyncio.sleep(0.01)
    raise AssertionError(f"the response is {response['status']}, not {status}")


async def test_a_response_names_its_job(service: FakeService) -> None:
    raw = await service.http.post(PATH, json={"input": "hi", "metadata": {"run": "7"}})
    response, job_id = raw.json(), service.worker.seen[0].id
    assert response["id"] == f"resp_{job_id}"
    assert raw.headers["location"] == f"/jobs/{job_id}"
    assert raw.headers["x-request-id"] == job_id
    assert (await service.http.get(f"/jobs/{response['id']}")).json()["id"] == job_id
    assert (response["status"], response["metadata"]) == ("completed", {"run": "7"})
    assert response["output"][0]["content"][0]["text"] == " HELLO"


async def test_a_response_is_retrieved_as_it_was_returned(service: FakeService) -> None:
    fields: dict[str, Any] = {
        "instructions": "be brief",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 9,
        "truncation": "auto",
        "service_tier": "flex",
        "tool_choice": "none",
        "tools": [{"type": "function", "name": "f", "parameters": {"max": 2**70}, "strict": True}],
        "user": "u",
        "metadata": {"a": "b"},
    }
    created = await create(service, **fields)
    assert {name: created[name] for name in fields} == fields
    async with fake_service(with_worker=False, server=service.server) as other:
        assert await get(other, created["id"]) == created


async def test_the_states_follow_the_job(workerless: FakeService) -> None:
    response = await create(workerless, background=True)
    assert (response["status"], response["output"], response["usage"]) == ("queued", [], None)
    assert await get(workerless, response["id"]) == response
    writer = await claim_job(workerless)
    assert (await get(workerless, response["id"]))["status"] == "in_progress"
    await writer.write("one", "two")
    await writer.finish()
    ended = await get(workerless, response["id"])
    assert ended["status"] == ended["output"][0]["status"] == "completed"
    assert ended["output"][0]["content"][0]["text"] == "onetwo"
    assert ended["completed_at"] >= ended["created_at"] == response["created_at"]


async def test_an_expired_response_has_failed(workerless: FakeService) -> None:
    response = await create(
        workerless, background=True, background_options={"completion_window": "1s"}
    )
    ended = await until_status(workerless, response["id"], "failed")
    assert ended["error"]["code"] == "server_error"
    assert "deadline" in ended["error"]["message"]


async def test_a_cancelled_response_stays_cancelled(service: FakeService) -> None:
    service.worker.paused = True
    response = await create(service, background=True)
    await service.until(lambda: service.worker.seen)
    for _ in range(2):
        raw = await service.http.post(f"{PATH}/{response['id']}/cancel")
        assert (raw.status_code, raw.json()["status"]) == (200, "cancelled")
    assert (await get(service, response["id"]))["status"] == "cancelled"


async def test_a_completed_response_cannot_be_cancelled(service: FakeService) -> None:
    response = await create(service)
    raw = await service.http.post(f"{PATH}/{response['id']}/cancel")
    assert (raw.status_code, raw.json()) == (200, response)


@pytest.mark.parametrize("state", ["queued", "running", "ended"])
async def test_a_deleted_response_is_not_found(service: FakeService, state: str) -> None:
    service.worker.paused = state == "running"
    if state == "queued":
        await service.stop_worker()
    response = await create(service, background=True)
    if state == "running":
        await service.until(lambda: service.worker.seen)
    elif state == "ended":
        await until_status(service, response["id"], "completed")
    path = f"{PATH}/{response['id']}"
    deleted = await service.http.delete(path)
    assert deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    if state == "running":
        await service.until(lambda: service.worker.stopped)
    for method, suffix in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ):
        missing = await service.http.request(method, path + suffix)
        assert missing.status_code == 404
        assert missing.json()["error"]["type"] == "invalid_request_error"
    job = await service.http.get(f"/jobs/{response['id']}")
    for _ in range(100):  # its result expires within a millisecond
        job = await service.http.get(f"/jobs/{response['id']}")
    assert job.status_code == 404


async def test_a_response_that_is_not_stored_is_kept_in_the_background_only(
    service: FakeService,
) -> None:
    response = await create(service, store=False)
    assert response["store"] is False
    assert (await service.http.get(f"{PATH}/{response['id']}")).status_code == 404
    background = await create(service, store=False, background=True)
    await until_status(service, background["id"], "completed")
    assert await service.redis.ttl(service.keys.response(background["id"][5:])) <= 600


async def test_the_same_request_with_its_key_gets_the_same_response(service: FakeService) -> None:
    headers = {"Idempotency-Key": "k"}
    bodies = [{"input": "hi", "metadata": {"run": run}} for run in ("1", "2")]
    first, second = [
        (await service.http.post(PATH, json=body, headers=headers)).json() for body in bodies
    ]
    assert first == second
    assert len(service.worker.seen) == 1


async def test_a_retried_job_is_a_response(workerless: FakeService) -> None:
    response = await create(workerless, background=True)
    await (await claim_job(workerless)).fail()
    retry = await workerless.http.post(f"/jobs/{response['id']}/retry")
    again = await get(workerless, f"resp_{retry.json()['id']}")
    assert (again["status"], again["id"]) == ("queued", f"resp_{retry.json()['id']}")


async def test_a_disconnect_cancels_the_job(service: FakeService) -> None:
    service.worker.paused = True
    leave = asyncio.Event()
    call = asyncio.create_task(abandoned_call(service.asgi, {"input": "hi"}, leave, path=PATH))
    await service.until(lambda: service.worker.seen)
    leave.set()
    await call
    await service.until(lambda: service.worker.stopped)


async def test_a_timeout_says_that_the_job_continues() -> None:
    async with fake_service(ApiSettings(sync_timeout_s=0.2)) as service:
        service.worker.paused = True
        raw = await service.http.post(PATH, json={"input": "hi"})
        assert (raw.status_code, raw.json()["error"]["code"]) == (504, "timeout")
        assert raw.headers["x-should-retry"] == "false"
        service.worker.paused = False
        response_id = f"resp_{service.worker.seen[0].id}"
        await until_status(service, response_id, "completed")


async def test_a_refusal_names_the_field_of_the_request(service: FakeService) -> None:
    for body, param, code in [
        ({"input": "hi", "conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"input": "hi", "foo": 1}, "foo", "unknown_parameter"),
        ({}, "input", "missing_required_parameter"),
        ({"input": "a" * 3000}, "input", "context_length_exceeded"),
        ({"input": "a", "max_output_tokens": 5000}, "max_output_tokens", "context_length_exceeded"),
        ({"input": "a", "num_return_sequences": 9}, "num_return_sequences", "invalid_value"),
    ]:
        raw = await service.http.post(PATH, json=body)
        error = raw.json()["error"]
        assert (raw.status_code, error["param"], error["code"]) == (400, param, code)
    unknown = await service.http.post(PATH, json={"input": "hi", "model": "gpt-4"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert service.worker.seen == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"starting_after": 3}, "starting_after"),
        ({"include_obfuscation": "true"}, None),
        ({"stream": "true", "starting_after": -1}, None),
        ({"include[]": "file_search_call.results"}, None),
    ],
)
async def test_other_queries_are_refused(
    service: FakeService, params: dict[str, Any], param: str | None
) -> None:
    response = await create(service)
    raw = await service.http.get(f"{PATH}/{response['id']}", params=params)
    assert (raw.status_code, raw.json()["error"]["param"]) == (400, param)


async def test_without_redis_every_route_is_unavailable(service: FakeService) -> None:
    response = await create(service)
    path = f"{PATH}/{response['id']}"
    service.server.connected = False
    calls = [
        ("POST", PATH),
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}/cancel"),
        ("GET", f"{path}/input_items"),
    ]
    for method, url in calls:
        raw = await service.http.request(method, url, json={"input": "hi"})
        assert (raw.status_code, raw.json()["error"]["type"]) == (503, "server_error"), url
    service.server.connected = True
    assert await get(service, response["id"]) == response
