"""`POST /jobs/{id}/fork`: which jobs can be forked where, and the new job's request and log."""

from typing import Any

import httpx
import pytest

from shared.protocol import encode
from tests.api.job_events import run_job
from tests.fakes_api import FakeService

KWARGS = {"max_new_tokens": 3, "seed": 5, "temperature": 0.5}
WORDS = {"prompt": "one two three", "generate_kwargs": KWARGS}


async def fork(service: FakeService, job_id: str, at: Any, **kwargs: Any) -> httpx.Response:
    return await service.http.post(
        f"/jobs/{job_id}/fork", json={"at": at, "generate_kwargs": kwargs}
    )


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_the_new_job_has_the_first_tokens_and_the_new_parameters(
    service: FakeService, at: int
) -> None:
    old_id = await run_job(service, **WORDS)
    service.worker.paused = True
    response = await fork(service, old_id, at, seed=9, top_k=4)
    assert response.status_code == 202, response.text
    new = response.json()
    assert new["origin"] == {"kind": "fork", "job_id": old_id}
    assert response.headers["location"] == f"/jobs/{new['id']}"
    await service.until(lambda: len(service.worker.seen) == 2)
    old, job = service.worker.seen
    assert job.generate_kwargs == KWARGS | {"seed": 9, "top_k": 4}
    assert (job.token_ids, job.seed, job.inherited_deltas) == (old.token_ids, 9, at)
    logs = service.services.redis.token_log
    kept, log = await logs.read(old_id, 0), await logs.read(new["id"], 0)
    assert list(map(encode, log)) == list(map(encode, kept[:at]))


async def test_without_a_seed_the_new_job_draws_one(service: FakeService) -> None:
    old_id = await run_job(service, **WORDS)
    service.worker.paused = True
    for _ in range(2):
        assert (await fork(service, old_id, 1)).status_code == 202
    await service.until(lambda: len(service.worker.seen) == 3)
    _, *forks = service.worker.seen
    assert len({5, *(job.seed for job in forks)}) == 3
    assert all("seed" not in job.generate_kwargs for job in forks)


async def test_a_new_length_counts_the_kept_tokens(service: FakeService) -> None:
    job_id = await run_job(service, **WORDS)
    service.worker.paused = True
    assert (await fork(service, job_id, 2, max_new_tokens=7)).status_code == 202
    await service.until(lambda: len(service.worker.seen) == 2)
    assert service.worker.seen[1].max_new_tokens == 7
    response = await fork(service, job_id, 2, max_new_tokens=2)
    assert response.status_code == 422
    assert response.json()["detail"] == "at: must be less than max_new_tokens, which is 2"
    assert (await fork(service, job_id, 2, max_length=40)).status_code == 202
    await service.until(lambda: len(service.worker.seen) == 3)
    with_max_length = service.worker.seen[2]
    assert with_max_length.max_new_tokens == 40 - len(with_max_length.token_ids or ())


@pytest.mark.parametrize("at", [3, 4, -1, "x", 1.5, None])
async def test_the_error_for_a_token_that_the_job_does_not_have_names_at(
    service: FakeService, at: Any
) -> None:
    response = await fork(service, await run_job(service, **WORDS), at)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("at: ")


@pytest.mark.parametrize(
    "changed",
    [
        {"stop_strings": ["x"]},
        {"eos_token_id": None},
        {"output_scores": True},
        {"num_return_sequences": 2},
    ],
)
async def test_parameters_of_the_kept_tokens_change_only_without_kept_tokens(
    service: FakeService, changed: dict[str, Any]
) -> None:
    job_id = await run_job(service, **WORDS)
    response = await fork(service, job_id, 1, **changed)
    assert response.status_code == 422
    [name] = changed
    assert response.json()["detail"].startswith(f"generate_kwargs.{name}: must be that of the job")
    assert (await fork(service, job_id, 0, **changed)).status_code == 202


async def test_parameters_that_exclude_each_other_are_a_422(service: FakeService) -> None:
    job_id = await run_job(service, prompt="one two", generate_kwargs={"suppress_tokens": [7]})
    response = await fork(service, job_id, 0, forced_eos_token_id=7)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("generate_kwargs.forced_eos_token_id: ")


async def test_a_plain_call_has_no_tokens_to_keep(service: FakeService) -> None:
    result = await service.http.post("/chat", json=WORDS)
    response = await fork(service, result.json()["id"], 1)
    assert response.status_code == 409
    assert "token log" in response.json()["detail"]


async def test_an_unknown_job_is_a_404(service: FakeService) -> None:
    assert (await fork(service, "unknown", 1)).status_code == 404
