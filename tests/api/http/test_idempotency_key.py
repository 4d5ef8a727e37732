"""A repeated request with an Idempotency-Key finds its job, even after a change of the model."""

import json
from typing import Any

import msgspec
import pytest
from httpx import Response

from shared.protocol import JobStatus
from shared.registry.worker_registry import Registry
from tests.api.job_events import events_of
from tests.echo_worker import letter_card, letter_tokenizer
from tests.fakes_api import FakeService

KEY = {"Idempotency-Key": "k1"}
BODY = {"prompt": "hello big world", "adapter": "verse"}


async def post(service: FakeService, body: dict[str, Any] = BODY, **headers: str) -> Response:
    return await service.http.post("/chat", json=body, headers=KEY | headers)


async def replace_the_model(service: FakeService) -> None:
    """Register a model without adapters and with a context that is too short for the prompt."""
    card = msgspec.structs.replace(letter_card(), context_length=8, adapters=())
    registry = Registry(service.redis, service.keys)
    await registry.publish_card(card, letter_tokenizer().to_str().encode())
    await service.services.models.first.watcher.refresh()


async def test_a_repeated_request_returns_its_job_after_a_change_of_the_model(
    service: FakeService,
) -> None:
    first = await post(service)
    await replace_the_model(service)
    again = await post(service)
    assert (again.status_code, again.json()) == (200, first.json())
    streamed = await post(service, Accept="text/event-stream")
    assert events_of(streamed.text)[-1]["Result"] == first.json()["Result"]
    submitted = await service.http.post("/jobs", json=BODY, headers=KEY)
    assert (submitted.status_code, submitted.json()["status"]) == (202, JobStatus.SUCCEEDED)
    assert len(service.worker.seen) == 1


async def test_another_body_another_key_and_no_key_are_checked_against_the_new_model(
    service: FakeService,
) -> None:
    await post(service)
    await replace_the_model(service)
    assert (await post(service, BODY | {"priority": 1})).status_code == 422
    assert (await post(service, **{"Idempotency-Key": "k2"})).status_code == 422
    assert (await service.http.post("/chat", json=BODY)).status_code == 422
    assert len(service.worker.seen) == 1


async def test_a_repeated_request_for_an_expired_job_is_checked_against_the_new_model(
    service: FakeService,
) -> None:
    job_id = (await post(service)).json()["id"]
    await replace_the_model(service)
    await service.redis.delete(service.keys.record(job_id), service.keys.arq_result(job_id))
    assert (await post(service)).status_code == 422


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_two_different_keys_are_rejected_and_a_repeated_key_is_accepted(
    service: FakeService, path: str
) -> None:
    names = ["a", "b"], ["a", "a"]
    two, twice = [
        await service.http.post(
            path,
            content=json.dumps(BODY),
            headers=[
                ("Content-Type", "application/json"),
                *(("Idempotency-Key", key) for key in keys),
            ],
        )
        for keys in names
    ]
    assert two.status_code == 400
    assert two.json()["detail"] == "Idempotency-Key: must be given once, got 2 different ones"
    assert twice.is_success
