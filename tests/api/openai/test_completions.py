"""`/v1/chat/completions` and `/v1/completions`: their jobs, headers, errors and disconnects."""

import asyncio
import json
from typing import Any

import pytest
from msgspec import structs

from api.settings import ApiSettings
from shared.registry.worker_registry import Registry
from tests.echo_worker import letter_card, letter_tokenizer
from tests.fakes_api import FakeService, abandoned_call, fake_service

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"prompt": "hello world"},
}
IMPATIENT = ApiSettings(sync_timeout_s=0.2)


def chunks_of(text: str) -> list[Any]:
    """Return the data of each event; the last one is `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data:")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("path", BODIES)
async def test_an_answer_names_its_job(service: FakeService, path: str) -> None:
    response = await service.http.post(path, json=BODIES[path])
    assert response.status_code == 200
    job_id = service.worker.seen[0].id
    assert response.json()["id"] == {CHAT: "chatcmpl-", TEXT: "cmpl-"}[path] + job_id
    assert response.headers["location"] == f"/jobs/{job_id}"
    assert response.headers["x-request-id"] == job_id
    for name in (job_id, response.json()["id"]):
        assert (await service.http.get(f"/jobs/{name}")).json()["id"] == job_id


async def test_an_adapter_is_selected_by_its_name(service: FakeService) -> None:
    for model in ("letters", "verse", None):
        body = BODIES[TEXT] | ({} if model is None else {"model": model})
        response = await service.http.post(TEXT, json=body)
        assert response.json()["model"] == (model or "letters")
    assert [job.adapter for job in service.worker.seen] == [None, "verse", None]


async def test_an_unknown_model_is_a_404(service: FakeService) -> None:
    response = await service.http.post(TEXT, json=BODIES[TEXT] | {"model": "gpt-4"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert error["message"].endswith("there are: letters, tales, verse")
    assert service.worker.seen == []


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_ends_with_usage_and_done(service: FakeService, path: str) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await service.http.post(path, json=BODIES[path] | options)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last, done = chunks_of(response.text)
    assert done == "[DONE]"
    assert last["choices"] == [] and last["usage"]["total_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert response.headers["location"] == f"/jobs/{service.worker.seen[0].id}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_job_is_an_error_that_no_client_repeats(
    service: FakeService, stream: bool
) -> None:
    response = await service.http.post(TEXT, json={"prompt": "fail", "stream": stream})
    if stream:
        error, done = chunks_of(response.text)
        assert done == "[DONE]"
    else:
        error = response.json()
        assert response.status_code == 500
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["location"] == f"/jobs/{service.worker.seen[0].id}"
    assert error["error"]["message"] == "no room on the device"
    assert error["error"]["type"] == "server_error"


async def test_a_timeout_names_the_job_of_each_prompt() -> None:
    async with fake_service(IMPATIENT) as service:
        service.worker.paused = True
        response = await service.http.post(TEXT, json={"prompt": ["hello", "world"]})
        assert response.status_code == 504
        first, second = [job["id"] for job in (await service.http.get("/jobs")).json()["jobs"]]
        message = response.json()["error"]["message"]
        assert message.startswith("no result within 0.2 s; the jobs go on, see /jobs/")
        assert f"/jobs/{first}" in message and f"/jobs/{second}" in message


async def test_a_timeout_says_that_the_job_continues() -> None:
    async with fake_service(IMPATIENT) as service:
        service.worker.paused = True
        response = await service.http.post(TEXT, json=BODIES[TEXT])
        assert response.status_code == 504
        assert response.headers["x-should-retry"] == "false"
        assert response.json()["error"]["code"] == "timeout"
        job_id = service.worker.seen[0].id
        assert response.headers["location"] == f"/jobs/{job_id}"
        keyed = await service.http.post(
            TEXT, json=BODIES[TEXT], headers={"Idempotency-Key": "k", "x-request-id": "mine"}
        )
        assert keyed.status_code == 504 and "x-should-retry" not in keyed.headers
        assert keyed.headers["x-request-id"] == "mine"
        service.worker.paused = False
        job = await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
        assert job.json()["status"] == "succeeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_shutdown_ends_the_request_and_not_its_job(
    service: FakeService, stream: bool
) -> None:
    service.worker.paused = True
    call = asyncio.create_task(service.http.post(TEXT, json=BODIES[TEXT] | {"stream": stream}))
    await service.until(lambda: service.worker.seen)
    service.services.stopping.set()
    response = await call
    job_id = service.worker.seen[0].id
    error = chunks_of(response.text)[-1] if stream else response.json()
    assert job_id in error["error"]["message"]
    assert stream or response.headers["x-should-retry"] == "false"
    assert service.worker.stopped == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_cancels_every_job(service: FakeService, stream: bool) -> None:
    service.worker.paused = True
    leave = asyncio.Event()
    body = {"prompt": ["one", "two"], "stream": stream}
    call = asyncio.create_task(abandoned_call(service.asgi, body, leave, path=TEXT))
    await service.until(lambda: len(service.worker.seen) == 2)
    leave.set()
    await call
    await service.until(lambda: len(service.worker.stopped) == 2)


async def test_a_key_finds_the_jobs_of_every_prompt(service: FakeService) -> None:
    body, headers = {"prompt": ["one", "two"]}, {"Idempotency-Key": "k"}
    answers = [(await service.http.post(TEXT, json=body, headers=headers)).json() for _ in range(2)]
    assert answers[0]["job_ids"] == answers[1]["job_ids"]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert len(service.worker.seen) == 2


async def test_a_key_finds_the_jobs_of_every_prompt_after_a_change_of_the_model(
    service: FakeService,
) -> None:
    body, headers = {"prompt": ["one", "two"], "model": "letters"}, {"Idempotency-Key": "k"}
    first = (await service.http.post(TEXT, json=body, headers=headers)).json()
    other = structs.replace(letter_card(), name="other")
    tokenizer_json = letter_tokenizer().to_str().encode()
    await Registry(service.redis, service.keys).publish_card(other, tokenizer_json)
    await service.services.models.first.watcher.refresh()
    repeated = await service.http.post(TEXT, json=body, headers=headers)
    assert (repeated.status_code, repeated.json()["job_ids"]) == (200, first["job_ids"])
    assert (await service.http.post(TEXT, json=body)).status_code == 404
    assert len(service.worker.seen) == 2


async def test_choices_of_several_prompts_are_in_their_order(service: FakeService) -> None:
    for stream in (False, True):
        body = {"prompt": ["one", "two", "three"], "stream": stream}
        response = await service.http.post(TEXT, json=body)
        texts = ["", "", ""]
        for part in chunks_of(response.text)[:-1] if stream else [response.json()]:
            for choice in part["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == [" ONE", " TWO", " THREE"]


async def test_a_full_queue_leaves_no_job_of_several_prompts() -> None:
    async with fake_service(ApiSettings(max_queued=2), with_worker=False) as service:
        response = await service.http.post(TEXT, json={"prompt": ["a", "b", "c"]})
        assert response.status_code == 429
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert int(response.headers["retry-after"]) > 0
        assert await service.num_queued() == 0


async def test_with_a_key_the_same_request_submits_the_rest() -> None:
    body, headers = {"prompt": ["a", "b", "c"]}, {"Idempotency-Key": "k"}
    async with fake_service(ApiSettings(max_queued=2), with_worker=False) as service:
        refused = await service.http.post(TEXT, json=body, headers=headers)
        assert (refused.status_code, await service.num_queued()) == (429, 2)
        await service.start_worker()
        await service.until_queued(0)
        answer = await service.http.post(TEXT, json=body, headers=headers)
        assert [choice["text"] for choice in answer.json()["choices"]] == [" A", " B", " C"]
        assert len(service.worker.seen) == 3


async def test_an_invalid_prompt_among_others_leaves_no_job(service: FakeService) -> None:
    response = await service.http.post(TEXT, json={"prompt": [[1], [2], [999]]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
    jobs = (await service.http.get("/jobs")).json()["jobs"]
    assert jobs == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "a", "foo": 1}, "foo", "unknown_parameter"),
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": "a", "max_tokens": "b"}, "max_tokens", "invalid_value"),
        ({"prompt": "a", "max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
        ({"prompt": "a" * 3000}, "prompt", "context_length_exceeded"),
        ({"prompt": "a", "n": 9}, "n", "invalid_value"),
        ({"prompt": "a", "ttl_s": 10**6}, "ttl_s", "invalid_value"),
        ([], "body", "invalid_value"),
    ],
)
async def test_a_refusal_has_param_and_code(
    service: FakeService, body: Any, param: str, code: str
) -> None:
    response = await service.http.post(TEXT, json=body, headers={"x-request-id": "mine"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert response.headers["x-request-id"] == "mine"


async def test_metadata_and_tier_are_returned(service: FakeService) -> None:
    body = BODIES[CHAT] | {"metadata": {"run": "7"}, "service_tier": "flex"}
    answer = (await service.http.post(CHAT, json=body)).json()
    assert (answer["metadata"], answer["service_tier"]) == ({"run": "7"}, "flex")
    job = service.worker.seen[0]
    assert job.priority == -5
    shown = (await service.http.get(f"/jobs/{job.id}")).json()
    assert shown["metadata"] == {"run": "7"}
    (listed,) = (await service.http.get("/jobs")).json()["jobs"]
    assert "metadata" not in listed


async def test_a_request_waits_for_a_first_worker(workerless: FakeService) -> None:
    """Without a model the worker checks model and prompt."""
    call = asyncio.create_task(workerless.http.post(CHAT, json=BODIES[CHAT] | {"model": "letters"}))
    await workerless.until_queued(1)
    await workerless.start_worker()
    response = await call
    assert response.status_code == 200
    assert response.json()["system_fingerprint"].startswith("fp_")
    job = workerless.worker.seen[0]
    assert (job.model, job.version, job.card_hash) == ("letters", 3, None)
