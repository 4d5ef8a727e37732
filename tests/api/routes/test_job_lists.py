"""`GET /jobs`, `DELETE /jobs?status=queued`, and the limits of the queue."""

from typing import Any

import httpx
import pytest

from api.settings import ApiSettings
from shared.queue.claims import FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.registry.worker_registry import Registry
from tests.echo_worker import letter_card, letter_tokenizer
from tests.factories import make_succeeded, make_worker_info
from tests.fakes_api import FakeService, fake_service

SUMMARY = {
    "id",
    "status",
    "created_at",
    "started_at",
    "finished_at",
    "queue_ms",
    "run_ms",
    "attempts",
    "worker",
}


async def submit(service: FakeService, **fields: Any) -> str:
    response = await service.http.post("/jobs", json={"prompt": "hello"} | fields)
    assert response.status_code == 202
    return str(response.json()["id"])


async def ended(service: FakeService, job_id: str) -> dict[str, Any]:
    response = await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    body: dict[str, Any] = response.json()
    assert body["status"] not in ("queued", "running")
    return body


async def page(service: FakeService, **params: Any) -> dict[str, Any]:
    response = await service.http.get("/jobs", params=params)
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


# -- list -----------------------------------------------------------------------------


async def test_a_listing_shows_jobs_without_their_results(service: FakeService) -> None:
    done, failed = await submit(service), await submit(service, prompt="fail")
    await ended(service, done)
    await ended(service, failed)
    listing = await page(service)
    assert listing["cursor"] is None
    by_id = {job["id"]: job for job in listing["jobs"]}
    assert set(by_id[done]) == SUMMARY
    assert set(by_id[failed]) == SUMMARY | {"error"}
    assert by_id[failed]["error"]["message"] == "no room on the device"


async def test_queued_jobs_are_listed_with_their_position(workerless: FakeService) -> None:
    await submit(workerless)
    second = await submit(workerless)
    [job] = [job for job in (await page(workerless))["jobs"] if job["id"] == second]
    assert set(job) == SUMMARY | {"position", "waiting_for"}
    assert (job["position"], job["waiting_for"]) == (2, "worker")


async def test_a_cursor_leads_from_page_to_page(workerless: FakeService) -> None:
    jobs = {await submit(workerless) for _ in range(5)}
    first = await page(workerless, limit=3)
    second = await page(workerless, limit=3, cursor=first["cursor"])
    assert [len(listing["jobs"]) for listing in (first, second)] == [3, 2]
    assert {job["id"] for listing in (first, second) for job in listing["jobs"]} == jobs
    assert second["cursor"] is None


async def test_a_failed_job_is_listed_as_failed(service: FakeService) -> None:
    await ended(service, await submit(service))
    failed = await submit(service, prompt="fail")
    await ended(service, failed)
    assert [job["id"] for job in (await page(service, status="failed"))["jobs"]] == [failed]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"cursor": "first"}, "cursor"),
        ({"cursor": "1-a\n"}, "cursor"),
        ({"cursor": "\N{ARABIC-INDIC DIGIT ONE}-a"}, "cursor"),
        ({"cursor": "\U00011f50-a"}, "cursor"),  # a digit of a Unicode newer than some Pythons'
    ],
)
async def test_the_error_for_an_invalid_parameter_names_it(
    workerless: FakeService, params: dict[str, Any], field: str
) -> None:
    response = await workerless.http.get("/jobs", params=params)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(f"{field}: ")


# -- purge -----------------------------------------------------------------------------------


async def test_a_purge_cancels_all_queued_jobs(workerless: FakeService) -> None:
    jobs = [await submit(workerless) for _ in range(3)]
    response = await workerless.http.delete("/jobs", params={"status": "queued"})
    assert (response.status_code, response.json()) == (200, {"cancelled": 3})
    assert await workerless.num_queued() == 0
    assert {(await ended(workerless, job_id))["status"] for job_id in jobs} == {"cancelled"}


@pytest.mark.parametrize("params", [{}, {"status": "running"}, {"status": "succeeded"}])
async def test_only_queued_jobs_can_be_purged(
    workerless: FakeService, params: dict[str, str]
) -> None:
    await submit(workerless)
    response = await workerless.http.delete("/jobs", params=params)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("status: ")
    assert await workerless.num_queued() == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/jobs"), ("DELETE", "/jobs?status=queued"), ("POST", "/jobs/some/retry")],
)
async def test_without_redis_each_of_these_routes_is_a_503(
    workerless: FakeService, method: str, path: str
) -> None:
    workerless.server.connected = False
    response = await workerless.http.request(method, path)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    workerless.server.connected = True


# -- limits -------------------------------------------------------------------------


async def test_too_many_waiting_tokens_are_a_429_that_names_the_limit() -> None:
    settings = ApiSettings(max_queued_tokens=200)
    async with fake_service(settings, with_worker=False) as service:
        tokenizer = letter_tokenizer().to_str().encode()
        await Registry(service.redis, service.keys).publish_card(letter_card(), tokenizer)
        await service.services.models.first.watcher.refresh()
        await backlog(service, jobs=2)  # of 5 + 50 tokens each
        response = await post(service, generate_kwargs={"max_new_tokens": 500})
        assert response.status_code == 429
        assert "more than 200" in response.json()["detail"]
        assert int(response.headers["retry-after"]) >= 1


async def test_a_deadline_before_the_expected_start_is_a_429_with_the_estimate() -> None:
    async with fake_service(with_worker=False) as service:
        await backlog(service, jobs=40)
        await claim_slowly(service)
        response = await post(service, deadline_s=0.01)
        assert response.status_code == 429
        assert response.json()["detail"].startswith("deadline_s: the job would wait for about ")
        assert int(response.headers["retry-after"]) >= 1
        accepted = (await post(service)).json()
        assert accepted["expected_start_s"] > 0.01
        assert "waiting_for" not in accepted


async def backlog(service: FakeService, *, jobs: int) -> None:
    for _ in range(jobs):
        await submit(service, generate_kwargs={"max_new_tokens": 50})


async def post(service: FakeService, **fields: Any) -> httpx.Response:
    return await service.http.post("/jobs", json={"prompt": "hello"} | fields)


async def claim_slowly(service: FakeService) -> None:
    """Run half of 40 jobs, one after the other."""
    await Registry(service.redis, service.keys).report(make_worker_info("slow"))
    queue = JobQueue(service.redis, service.keys)
    for _ in range(20):
        free = FreeCapacity(rows=1, kv_tokens=1_000_000, running=0)
        [claimed] = (await queue.claim("slow", free, lease_ms=60_000)).jobs
        await queue.finish(
            claimed, make_succeeded(claimed.job.id), fencing_token=claimed.fencing_token
        )
