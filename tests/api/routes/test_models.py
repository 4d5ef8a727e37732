"""Routes of a service with two models, whose workers come and go."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from api.settings import ApiSettings
from shared.queue.keys import Keys
from shared.queue.listing import Cursor
from shared.registry.worker_registry import Registry
from tests.echo_worker import letter_card, letter_tokenizer
from tests.factories import make_worker_info
from tests.fakes_api import FakeService, fake_service

MODELS = "letters,figures"
PROMPT = {"prompt": "hello"}
FIGURES = PROMPT | {"model": "figures"}


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """Return an api with a worker of `letters`; no worker has registered `figures`."""
    async with fake_service(ApiSettings(models=MODELS)) as running:
        yield running


async def register_figures(service: FakeService) -> None:
    registry = Registry(service.redis, Keys(service.keys.service, "figures"))
    card = msgspec.structs.replace(letter_card(), name="figures", adapters=("roman",))
    card_hash = await registry.publish_card(card, letter_tokenizer().to_str().encode())
    await registry.report(make_worker_info("figures", card_hash=card_hash))


async def test_a_model_that_no_worker_has_loaded_is_listed_and_accepts_jobs(
    service: FakeService,
) -> None:
    listed = (await service.http.get("/v1/models")).json()["data"]
    models = {model["id"]: model["max_model_len"] for model in listed}
    assert models == {"letters": 2048, "tales": 2048, "verse": 2048, "figures": None}
    accepted = await service.http.post("/jobs", json=FIGURES)
    assert (accepted.status_code, accepted.json()["waiting_for"]) == (202, "worker")
    assert await service.redis.zcard("falconer:queue:model:figures") == 1
    assert (await service.http.post("/tokenize", json=FIGURES)).status_code == 503
    health = await service.http.get("/health?model=figures")
    assert (health.status_code, health.json()) == (503, {"detail": "Model not initialized"})


async def test_an_adapter_of_a_new_card_is_found_at_once(service: FakeService) -> None:
    body = PROMPT | {"model": "roman"}
    refused = await service.http.post("/jobs", json=body)
    names = "letters, tales, verse, figures"
    assert refused.json() == {"detail": f"model: no model 'roman'; there are: {names}"}
    await register_figures(service)
    assert (await service.http.post("/jobs", json=body)).status_code == 202
    assert await service.redis.zcard("falconer:queue:model:figures") == 1


async def test_an_idempotency_key_belongs_to_one_job_of_all_models(service: FakeService) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await service.http.post("/jobs", json=FIGURES, headers=headers)
    again = await service.http.post("/jobs", json=FIGURES, headers=headers)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["position"] == 1
    other = await service.http.post("/jobs", json=PROMPT, headers=headers)
    assert other.status_code == 409


async def test_a_purge_cancels_the_waiting_jobs_of_every_model(service: FakeService) -> None:
    service.worker.paused = True
    jobs = [(await service.http.post("/jobs", json=FIGURES)).json()["id"] for _ in range(2)]
    assert (await service.http.delete("/jobs?status=queued")).json() == {"cancelled": 2}
    assert await service.redis.zcard("falconer:queue:model:figures") == 0
    statuses = {(await service.http.get(f"/jobs/{id_}")).json()["status"] for id_ in jobs}
    assert statuses == {"cancelled"}


async def test_a_deadline_ends_the_job_of_any_model_without_its_worker(
    service: FakeService,
) -> None:
    body = FIGURES | {"deadline_s": 0.05}
    answer = await service.http.post("/chat", json=body)
    assert "deadline" in answer.json()["detail"]
    assert await service.redis.zcard("falconer:queue:model:figures") == 0


async def test_pages_show_the_place_of_each_job_in_its_own_queue(service: FakeService) -> None:
    await service.stop_worker()
    for _ in range(2):
        for body in (PROMPT, FIGURES):
            assert (await service.http.post("/jobs", json=body)).status_code == 202
    page = (await service.http.get("/jobs?limit=3")).json()
    rest = (await service.http.get("/jobs", params={"cursor": page["cursor"]})).json()
    assert Cursor.parse(page["cursor"])
    assert sorted(job["position"] for job in page["jobs"] + rest["jobs"]) == [1, 1, 2, 2]


async def test_a_job_of_a_model_that_is_served_no_more_is_still_found(
    service: FakeService,
) -> None:
    job_id = (
        await service.http.post(
            "/v1/responses", json={"input": "hello", "model": "figures", "background": True}
        )
    ).json()["id"]
    async with fake_service(with_worker=False, server=service.server) as later:
        assert (await later.http.get(f"/v1/responses/{job_id}")).json()["model"] == "figures"
        cancelled = await later.http.post(f"/v1/responses/{job_id}/cancel")
        assert cancelled.json()["status"] == "cancelled"
    assert await service.redis.zcard("falconer:queue:model:figures") == 0


async def test_metrics_have_a_series_for_each_model_and_for_no_other_name(
    service: FakeService,
) -> None:
    await service.http.post("/jobs", json=FIGURES)
    assert (await service.http.post("/chat", json=PROMPT)).status_code == 200
    for index in range(20):
        await service.http.post("/jobs", json=PROMPT | {"model": f"unknown-{index}"})
        await service.http.get(f"/health?model=unknown-{index}")
    text = (await service.http.get("/metrics")).text
    assert 'falconer_queue_depth{model="figures",state="waiting"} 1.0' in text
    assert 'falconer_queue_depth{model="letters",state="waiting"} 0.0' in text
    assert 'falconer_jobs_total{model="letters",status="succeeded"} 1.0' in text
    assert 'falconer_tokens_total{kind="prompt",model="letters"} 5.0' in text
    assert "falconer_workers" in text and "unknown" not in text
