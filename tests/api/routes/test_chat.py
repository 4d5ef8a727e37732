"""`POST /chat` without a stream: results, errors, limits and shutdown."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from api.examples import REQUESTS
from api.schemas import ChatRequest
from api.settings import ApiSettings
from shared.protocol import ChatJob
from tests.fakes_api import FakeService, abandoned_call, fake_service

ONE_WAITING = ApiSettings(max_queued=1)
IMPATIENT = ApiSettings(sync_timeout_s=0.2)


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
    registered = await service.services.redis.models[0].registry.current_card()
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
