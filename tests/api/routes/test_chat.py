"""`POST /chat`: synchronous and asynchronous requests, streams, disconnects, idempotency keys."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.examples import REQUESTS
from api.schemas import ChatRequest
from api.settings import ApiSettings
from shared.protocol import ChatJob
from tests.fakes_api import FakeService, abandoned_call, fake_service

ONE_WAITING = ApiSettings(max_queued=1)
IMPATIENT = ApiSettings(sync_timeout_s=0.2)


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the data of each event, with its id as `index`."""
    events = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            index = {"index": int(fields["id"])} if "id" in fields else {}
            events.append(index | json.loads(fields["data"]))
    return events


# -- synchronous requests --------------------------------------------------------------------


async def test_a_request_gets_the_result_of_its_job(service: FakeService) -> None:
    response = await service.http.post("/chat", json={"prompt": "hello big world"})
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"Result", "id", "sequences", "usage", "seed"}
    assert answer["Result"] == "hello big world HELLO BIG WORLD"
    assert answer["sequences"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 15


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "wait=30"}])
async def test_a_waiting_request_frees_its_body(
    workerless: FakeService, prefer: dict[str, str]
) -> None:
    """Ten thousand requests may wait, with a megabyte of text each, or ten megabytes of lists."""
    leave, body = asyncio.Event(), {"prompt": "kept?"}
    call = asyncio.create_task(abandoned_call(workerless.asgi, body, leave, prefer))
    await workerless.until_queued(1)

    def is_freed() -> bool:
        found = [each for each in gc.get_objects() if type(each) in (ChatRequest, ChatJob)]
        return not any("kept?" in repr(each) for each in found)

    await workerless.until(is_freed)
    leave.set()
    await call


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_examples_of_the_openapi_document_run(service: FakeService, name: str) -> None:
    response = await service.http.post("/chat", json=REQUESTS[name]["value"])
    assert response.status_code == 200


async def test_the_job_carries_token_ids_and_lengths_of_the_registered_model(
    service: FakeService,
) -> None:
    await service.http.post("/chat", json={"prompt": "abc", "generate_kwargs": {"top_k": None}})
    job = service.worker.seen[0]
    registered = await service.services.redis.registry.current_card()
    assert registered is not None
    assert job.card_hash == registered.hash
    assert len(job.token_ids or ()) == 3
    assert job.max_new_tokens == 197
    assert job.generate_kwargs == {"top_k": None}


async def test_the_job_names_an_adapter_of_the_model_card(service: FakeService) -> None:
    for body in ({"adapter": "verse"}, {"adapter": None}, {}):
        response = await service.http.post("/chat", json={"prompt": "abc", **body})
        assert response.status_code == 200
    assert [job.adapter for job in service.worker.seen] == ["verse", None, None]
    assert [job.version for job in service.worker.seen] == [2, 1, 1], "old workers run the others"


@pytest.mark.parametrize("route", ["/chat", "/jobs"])
async def test_the_error_for_an_unknown_adapter_lists_the_known_adapters(
    service: FakeService, route: str
) -> None:
    response = await service.http.post(route, json={"prompt": "abc", "adapter": "prose"})
    assert response.status_code == 422
    assert response.json() == {
        "detail": "adapter: no adapter 'prose' with this model; there are: tales, verse"
    }
    assert service.worker.seen == []


async def test_the_worker_checks_a_request_before_a_model_is_registered(
    workerless: FakeService,
) -> None:
    call = asyncio.create_task(workerless.http.post("/chat", json={"prompt": "abc"}))
    worker = asyncio.create_task(workerless.worker.run())
    workerless.tasks.append(worker)
    assert (await call).status_code == 200
    job = workerless.worker.seen[0]
    assert (job.card_hash, job.token_ids, job.max_new_tokens) == (None, None, None)


async def test_the_response_has_the_seed_of_the_request_or_a_random_one(
    service: FakeService,
) -> None:
    given = await service.http.post(
        "/chat", json={"prompt": "a", "generate_kwargs": {"seed": 2**63 - 1}}
    )
    assert given.json()["seed"] == 2**63 - 1
    drawn = [(await service.http.post("/chat", json={"prompt": "a"})).json()["seed"] for _ in "12"]
    assert drawn[0] != drawn[1]
    assert all(0 <= seed < 2**32 for seed in drawn)


async def test_messages_are_answered(service: FakeService) -> None:
    messages = [{"role": "user", "content": "hi"}]
    response = await service.http.post("/chat", json={"messages": messages})
    assert response.json()["Result"] == " HELLO"


async def test_the_error_of_a_failed_job_has_its_reason_and_id(service: FakeService) -> None:
    response = await service.http.post("/chat", json={"prompt": "please fail"})
    assert response.status_code == 500
    assert response.json() == {
        "detail": "no room on the device",
        "id": service.worker.seen[0].id,
    }


async def test_concurrent_requests_each_get_their_own_result(service: FakeService) -> None:
    calls = [service.http.post("/chat", json={"prompt": f"call {i}"}) for i in range(20)]
    answers = await asyncio.gather(*calls)
    assert [a.status_code for a in answers] == [200] * 20
    assert [a.json()["Result"] for a in answers] == [f"call {i} CALL {i}" for i in range(20)]


async def test_a_request_that_times_out_gets_504_and_the_job_continues() -> None:
    async with fake_service(IMPATIENT) as service:
        service.worker.paused = True
        response = await service.http.post("/chat", json={"prompt": "hello"})
        assert response.status_code == 504
        job_id = response.json()["id"]
        assert job_id in response.json()["detail"]
        service.worker.paused = False
        later = await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
        assert later.json()["result"]["Result"] == "hello HELLO"


async def test_a_lost_terminal_event_is_read_from_the_record(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.05)
    service.services.tasks[0].cancel()  # the reader of replies
    response = await service.http.post("/chat", json={"prompt": "hello"})
    assert response.json()["Result"] == "hello HELLO"


async def test_a_full_queue_is_a_429_with_retry_after() -> None:
    async with fake_service(ONE_WAITING, with_worker=False) as service:
        assert (await service.http.post("/jobs", json={"prompt": "a"})).status_code == 202
        response = await service.http.post("/chat", json={"prompt": "b"})
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        assert await service.num_queued() == 1


async def test_a_shutdown_ends_open_requests_and_not_their_jobs(
    service: FakeService,
) -> None:
    service.worker.paused = True
    call = asyncio.create_task(service.http.post("/chat", json={"prompt": "hello"}))
    await service.until(lambda: service.worker.seen)
    service.services.stopping.set()
    response = await call
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert response.json()["id"] == service.worker.seen[0].id
    service.worker.paused = False
    record = await service.http.get(f"/jobs/{service.worker.seen[0].id}")
    assert record.json()["status"] in ("running", "succeeded")


async def test_a_shutdown_ends_a_request_whose_body_has_not_arrived(
    service: FakeService,
) -> None:
    service.services.stopping.set()
    never = asyncio.Event()

    async def half_a_body() -> AsyncIterator[bytes]:
        yield b'{"prompt": '
        await never.wait()

    response = await service.http.post("/chat", content=half_a_body())
    assert response.status_code == 503
    assert "stopping" in response.json()["detail"]
    assert "retry-after" in response.headers
    assert response.headers["connection"] == "close"


async def test_a_shutdown_ends_a_stream_with_an_event_that_names_its_job(
    service: FakeService,
) -> None:
    service.worker.paused = True
    body = {"prompt": "hello", "stream": True}
    call = asyncio.create_task(service.http.post("/chat", json=body))
    await service.until(lambda: service.worker.seen)
    service.services.stopping.set()
    (last,) = events_of((await call).text)
    job_id = service.worker.seen[0].id
    assert (last["id"], last["status"]) == (job_id, "running")
    assert "index" not in last  # a client that resumes with an id would miss a token
    assert f"/jobs/{job_id}" in last["error"]["message"]


# -- Prefer ----------------------------------------------------------------------------------


async def test_respond_async_gets_202_at_once(service: FakeService) -> None:
    service.worker.paused = True
    headers = {"Prefer": "respond-async"}
    response = await service.http.post("/chat", json={"prompt": "hello"}, headers=headers)
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["location"] == f"/jobs/{response.json()['id']}"
    assert (response.json()["status"], response.json()["position"]) == ("queued", 1)


async def test_wait_returns_a_result_within_its_seconds(service: FakeService) -> None:
    response = await service.http.post(
        "/chat", json={"prompt": "hello"}, headers={"Prefer": "wait=30"}
    )
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.json()["Result"] == "hello HELLO"


@pytest.mark.parametrize("prefer", ["wait=1", "respond-async, wait=1", 'WAIT="1"; x=y, foo'])
async def test_wait_returns_202_for_a_job_that_takes_longer(
    service: FakeService, prefer: str
) -> None:
    service.worker.paused = True
    response = await service.http.post(
        "/chat", json={"prompt": "hello"}, headers={"Prefer": prefer}
    )
    assert response.status_code == 202
    assert response.headers["location"]


async def test_the_202_after_a_wait_has_the_current_state_of_the_job(service: FakeService) -> None:
    service.worker.paused = True
    response = await service.http.post(
        "/chat", json={"prompt": "hello"}, headers={"Prefer": "wait=1"}
    )
    assert (response.status_code, response.json()["status"]) == (202, "running")


async def test_preference_applied_has_the_wait_that_was_applied() -> None:
    async with fake_service(IMPATIENT) as service:
        service.worker.paused = True
        response = await service.http.post(
            "/chat", json={"prompt": "hello"}, headers={"Prefer": "wait=600"}
        )
        assert response.headers["preference-applied"] == "wait=0.2"


@pytest.mark.parametrize(
    "prefer", ["handling=strict, return=minimal", 'x="a, wait=0"', 'x="\\", wait=0"', 'x="wait=0']
)
async def test_unknown_preferences_are_ignored(service: FakeService, prefer: str) -> None:
    headers = {"Prefer": prefer}
    response = await service.http.post("/chat", json={"prompt": "hello"}, headers=headers)
    assert response.status_code == 200
    assert "preference-applied" not in response.headers


# -- streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "headers"),
    [({"stream": True}, {}), ({}, {"Accept": "text/event-stream"})],
)
async def test_a_stream_has_each_token_once_and_then_the_result(
    service: FakeService, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    body = {"prompt": "hello big world"} | fields
    response = await service.http.post("/chat", json=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, last = events_of(response.text)
    assert [event["index"] for event in deltas] == [0, 1, 2]
    assert "".join(event["delta"] for event in deltas) == " HELLO BIG WORLD"
    assert [event["token_ids"] for event in deltas] == [[0], [1], [2]]
    assert {event["sequence"] for event in deltas} == {0}
    assert (last["index"], last["status"]) == (3, "succeeded")
    assert last["Result"] == "hello big world HELLO BIG WORLD"


async def test_a_stream_of_a_failed_job_ends_with_its_error(service: FakeService) -> None:
    response = await service.http.post("/chat", json={"prompt": "fail", "stream": True})
    (last,) = events_of(response.text)
    assert last["status"] == "failed"
    assert last["error"]["message"] == "no room on the device"


async def test_an_invalid_streamed_request_gets_a_json_error(service: FakeService) -> None:
    response = await service.http.post("/chat", json={"prompt": "", "stream": True})
    assert response.status_code == 400


async def test_a_stream_without_tokens_gets_keep_alive_comments(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.sse.KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 0.01)
    service.worker.paused = True
    body = {"prompt": "hello", "stream": True}
    call = asyncio.create_task(service.http.post("/chat", json=body))
    await service.until(lambda: service.worker.seen)
    await asyncio.sleep(0.1)
    service.worker.paused = False
    text = (await call).text
    assert text.startswith(": keep-alive\n\n")
    assert events_of(text)[-1]["status"] == "succeeded"


# -- disconnects -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_cancels_the_running_job(service: FakeService, stream: bool) -> None:
    service.worker.paused = True
    leave = asyncio.Event()
    call = asyncio.create_task(
        abandoned_call(service.asgi, {"prompt": "hello", "stream": stream}, leave)
    )
    await service.until(lambda: service.worker.seen)
    leave.set()
    await call
    await service.until(lambda: service.worker.stopped)
    assert service.worker.stopped == [service.worker.seen[0].id]


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "wait=30"}])
async def test_a_disconnect_cancels_the_queued_job(
    workerless: FakeService, prefer: dict[str, str]
) -> None:
    leave = asyncio.Event()
    call = asyncio.create_task(abandoned_call(workerless.asgi, {"prompt": "hello"}, leave, prefer))
    await workerless.until_queued(1)
    leave.set()
    await call
    await workerless.until_queued(0)


# -- idempotency -----------------------------------------------------------------------------


async def test_the_same_key_and_body_return_the_same_job(service: FakeService) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await service.http.post("/chat", json={"prompt": "a", "priority": 1}, headers=headers)
    again = await service.http.post("/chat", json={"priority": 1, "prompt": "a"}, headers=headers)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    stream = {"Accept": "text/event-stream"} | headers
    replayed = await service.http.post("/chat", json={"prompt": "a", "priority": 1}, headers=stream)
    assert events_of(replayed.text)[-1]["id"] == first.json()["id"]
    assert len(service.worker.seen) == 1


async def test_two_requests_with_one_key_wait_for_one_job(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.job_handle.POLL_S", 3600)  # the record is not read
    service.worker.paused = True
    headers = {"Idempotency-Key": "k1"}
    calls = [
        asyncio.create_task(service.http.post("/chat", json={"prompt": "a"}, headers=headers))
        for _ in range(2)
    ]
    await service.until(lambda: service.worker.seen)
    service.worker.paused = False
    async with asyncio.timeout(30):
        first, second = [(await call).json() for call in calls]
    assert first == second


async def test_the_same_key_with_another_body_is_a_conflict(service: FakeService) -> None:
    headers = {"Idempotency-Key": "k1"}
    await service.http.post("/chat", json={"prompt": "a"}, headers=headers)
    response = await service.http.post("/chat", json={"prompt": "b"}, headers=headers)
    assert response.status_code == 409
    assert "Idempotency-Key" in response.json()["detail"]


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "wait=30"}])
async def test_a_disconnect_leaves_a_job_with_an_idempotency_key(
    service: FakeService, prefer: dict[str, str]
) -> None:
    service.worker.paused = True
    headers = {"Idempotency-Key": "k1"} | prefer
    leave = asyncio.Event()
    call = asyncio.create_task(abandoned_call(service.asgi, {"prompt": "a"}, leave, headers))
    await service.until(lambda: service.worker.seen)
    leave.set()
    await call
    service.worker.paused = False
    response = await service.http.post("/chat", json={"prompt": "a"}, headers=headers)
    assert response.json()["id"] == service.worker.seen[0].id
    assert response.status_code == 200
