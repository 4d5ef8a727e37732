"""Which files and batches are created, and which are refused by the name of a field."""

from typing import Any

import pytest

from api.settings import ApiSettings
from shared.queue.keys import ACTIVE_BATCHES_MAX
from tests.fakes_api import FakeService, fake_service

TEXT = "/v1/completions"
REQUESTS = [{"custom_id": "a", "body": {"prompt": "hello", "max_tokens": 2}}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        (
            {"input_file_id": "file-x", "requests": [{"custom_id": "a", "body": {}}]},
            "input_file_id",
        ),
        ({"metadata": {"k" * 65: "v"}}, "metadata.k"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_an_invalid_batch_names_its_field(
    service: FakeService, fields: dict[str, Any], param: str
) -> None:
    body = {"input_file_id": "file-x", "endpoint": TEXT, "completion_window": "24h"}
    answer = await service.http.post("/v1/batches", json=body | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


async def test_a_batch_needs_a_file_that_exists(service: FakeService) -> None:
    body = {"input_file_id": "file-x", "endpoint": TEXT, "completion_window": "24h"}
    answer = await service.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input_file_id")


async def test_uploads_have_limits() -> None:
    async with fake_service(ApiSettings(max_file_bytes=10), with_worker=False) as service:

        async def post(data: dict[str, str], content: bytes = b"12345") -> Any:
            answer = await service.http.post(
                "/v1/files", data=data, files={"file": ("in.jsonl", content)}
            )
            return answer.status_code, answer.json().get("error", {}).get("param")

        purpose = {"purpose": "batch"}
        assert await post(purpose) == (200, None)
        assert await post(purpose, b"12345678901") == (413, "file")
        assert await post({"purpose": "vision"}) == (400, "purpose")
        assert await post({}) == (400, "purpose")
        seconds = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}
        assert await post(purpose | seconds) == (400, "expires_after[seconds]")
        no_file = await service.http.post("/v1/files", files={"purpose": (None, "batch")})
        assert (no_file.status_code, no_file.json()["error"]["param"]) == (400, "file")
        typed = await service.http.post("/v1/files", json={"purpose": "batch"})
        assert typed.status_code == 415
        broken = await service.http.post(
            "/v1/files",
            content=b"--b\r\nnonsense",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert (broken.status_code, broken.json()["error"]["param"]) == (400, "body")
        names = await service.redis.keys("*file*")
        assert len([name for name in names if b"file-data" in name]) == 1


async def num_files(service: FakeService) -> int:
    return len((await service.http.get("/v1/files?purpose=batch")).json()["data"])


async def test_a_repeated_creation_with_its_key_finds_the_batch(service: FakeService) -> None:
    body = {"requests": REQUESTS, "endpoint": TEXT}

    async def create_with(key: str, body: dict[str, Any]) -> Any:
        headers = {"Idempotency-Key": key}
        return await service.http.post("/v1/batches", json=body, headers=headers)

    first, again, other = [await create_with(key, body) for key in ("k", "k", "l")]
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert await num_files(service) == 2
    conflict = await create_with("k", body | {"completion_window": "2h"})
    assert conflict.status_code == 409
    assert await num_files(service) == 2
    job = await service.http.post(
        "/jobs", json={"prompt": "hello"}, headers={"Idempotency-Key": "k"}
    )
    assert job.status_code == 202


async def test_the_key_of_a_lost_batch_creates_another_one(service: FakeService) -> None:
    body, headers = {"requests": REQUESTS, "endpoint": TEXT}, {"Idempotency-Key": "k"}
    first = await service.http.post("/v1/batches", json=body, headers=headers)
    await service.redis.delete(service.keys.batch(first.json()["id"]))
    second = await service.http.post("/v1/batches", json=body, headers=headers)
    assert second.status_code == 200
    assert second.json()["id"] != first.json()["id"]


async def test_a_refused_batch_keeps_no_file(service: FakeService) -> None:
    others = {f"batch_{index}": float("inf") for index in range(ACTIVE_BATCHES_MAX)}
    await service.redis.zadd(service.keys.active_batches, others)
    body = {"requests": REQUESTS, "endpoint": TEXT}
    assert (await service.http.post("/v1/batches", json=body)).status_code == 429
    assert await num_files(service) == 0
