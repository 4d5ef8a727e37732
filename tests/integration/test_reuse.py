"""A request takes the tokens of another job, and does not depend on what becomes of that job."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.integration.event_reader import TIMEOUT_S, EventReader
from tests.integration.service import ApiChild, Service, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]

LONG = 1500  # tokens: a run lasts for seconds
KWARGS = {"seed": 7, "top_k": 50, "eos_token_id": None, "return_token_ids": True}
HEADER = "Falconer-Reuse"


class Client:
    def __init__(self, http: httpx.AsyncClient, api: ApiChild) -> None:
        self.http = http
        self.api = api

    async def submit(self, reuse: str, **fields: Any) -> tuple[str, str | None]:
        """Return the id of a long job, and whose tokens it takes."""
        body = {
            "prompt": "Once upon a time",
            "generate_kwargs": KWARGS | {"max_new_tokens": LONG},
            "reuse": reuse,
        }
        response = await self.http.post("/jobs", json=body | fields)
        assert response.status_code == 202, response.text
        return response.json()["id"], response.headers.get(HEADER)

    async def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (await self.http.get(f"/jobs/{job_id}")).json()
        return job

    async def ended(self, job_id: str) -> dict[str, Any]:
        path, params = f"/jobs/{job_id}", {"wait": TIMEOUT_S}
        job: dict[str, Any] = (await self.http.get(path, params=params)).json()
        return job

    async def tokens(self, job_id: str) -> list[int]:
        job = await self.ended(job_id)
        assert job["status"] == "succeeded", job
        ids: list[int] = job["result"]["sequences"][0]["token_ids"]
        return ids

    async def events(self, job_id: str, at_most: int | None = None) -> EventReader:
        reader = EventReader()
        assert await reader.follow(self.api.url, job_id, at_most) == 200
        return reader


@pytest.fixture
async def client(start_api: Callable[..., ApiChild]) -> AsyncIterator[Client]:
    api = start_api()
    await api.ready("/livez")
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=TIMEOUT_S) as http:
        yield Client(http, api)


async def test_a_request_joins_a_running_job_and_takes_a_finished_one(
    service: Service, start_worker: StartWorker, client: Client
) -> None:
    await service.ready(start_worker())
    await client.api.ready("/health")
    first, how = await client.submit("finished")
    assert how is None
    await client.events(first, 20)
    joined, how = await client.submit("running")
    assert how == "running"
    reader = await client.events(joined)
    expected = await client.tokens(first)
    assert len(expected) == LONG
    assert await client.tokens(joined) == reader.token_ids(0) == expected
    assert reader.text(0) == reader.end["sequences"][0]["text"]

    taken, how = await client.submit("finished", return_full_text=False, metadata={"a": "b"})
    assert how == "finished"
    assert await client.tokens(taken) == expected
    job = await client.job(taken)
    assert job["batch"] == {"mean_rows": 0.0, "max_rows": 0}, "the engine ran"
    assert (job["id"], job["metadata"]) == (taken, {"a": "b"})
    assert job["result"]["Result"] == reader.end["sequences"][0]["text"]
    # The joined job took most of its tokens from the first job.
    assert (await client.job(joined))["batch"] == {"mean_rows": 0.0, "max_rows": 0}


async def test_neither_cancellation_ends_the_other_job(
    service: Service, start_worker: StartWorker, client: Client
) -> None:
    await service.ready(start_worker())
    await client.api.ready("/health")
    first, _ = await client.submit("running")
    await client.events(first, 20)
    (joined, how), (other, _) = [await client.submit("running") for _ in range(2)]
    assert how == "running"
    await client.events(joined, 40)
    await client.http.delete(f"/jobs/{other}")
    await client.http.delete(f"/jobs/{first}")
    assert (await client.ended(first))["status"] == "cancelled"
    assert (await client.ended(other))["status"] == "cancelled"
    tokens = await client.tokens(joined)
    batch = (await client.job(joined))["batch"]
    assert batch["max_rows"] == 1, "the joined job did not generate the rest"
    alone, how = await client.submit("never")
    assert how is None
    assert tokens == await client.tokens(alone)


async def test_the_death_of_the_worker_of_one_job_ends_no_other(
    service: Service, start_worker: StartWorker, client: Client
) -> None:
    first_worker, second_worker = start_worker(), start_worker(max_rows=1)  # one of two jobs
    await service.ready(first_worker, second_worker)
    await client.api.ready("/health")
    second_worker.freeze()  # does not claim
    first, _ = await client.submit("running")
    await client.events(first, 20)
    first_worker.freeze()
    second_worker.thaw()
    joined, how = await client.submit("running")
    assert how == "running"

    async def is_joined() -> bool:
        return (await client.job(joined))["worker"] == second_worker.id

    await eventually(is_joined)
    first_worker.kill()
    first_tokens, tokens = await asyncio.gather(client.tokens(first), client.tokens(joined))
    assert first_tokens == tokens
    assert len(tokens) == LONG
