"""Adapters that clients load and unload while two workers serve."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.service import WAIT_S, ApiChild, Service, WorkerChild
from tests.worker.peft_adapters import write_adapter
from worker.engine import AdapterMode, Engine, SamplingParams, generate
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]

PROMPT = "Once upon a time"
NUM_TOKENS = 8
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "model", like="7b")


@pytest.fixture
def allowed(checkpoint: Path, tmp_path: Path) -> Path:
    """Return a folder with two adapters, and a link to an adapter outside of it."""
    for seed, name in enumerate(("allowed/ode", "allowed/epic", "outside")):
        write_adapter(tmp_path / name, checkpoint, seed=seed)
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "allowed" / "empty").mkdir()
    return tmp_path / "allowed"


def expected_texts(checkpoint: Path, folder: Path) -> dict[str | None, str]:
    """Return the text of each adapter in `folder` and of the model itself, by a local engine."""
    engine = Engine.from_pretrained(
        str(checkpoint), adapters_dir=str(folder), adapter_mode=AdapterMode.SERVE
    )
    params = SamplingParams(max_new_tokens=NUM_TOKENS)
    return {
        name: generate(engine, [PROMPT], params, adapter=name)[0][0].text
        for name in (None, "ode", "epic")
    }


async def post(api: ApiChild, path: str, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        return await http.post(api.url + path, json=body)


async def complete(api: ApiChild, model: str | None = None) -> httpx.Response:
    options = {"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
    return await post(api, "/v1/completions", prompt=PROMPT, model=model, **options)


async def texts(api: ApiChild, model: str, count: int = 8) -> set[str]:
    """Return the different texts of some requests, which both workers run."""
    answers = await asyncio.gather(*(complete(api, model) for _ in range(count)))
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    return {answer.json()["choices"][0]["text"] for answer in answers}


async def job_of(api: ApiChild, adapter: str) -> str:
    """Return the id of a job of this adapter that has ended."""
    kwargs = {"max_new_tokens": NUM_TOKENS, "eos_token_id": None}
    job = await post(api, "/jobs", prompt=PROMPT, adapter=adapter, generate_kwargs=kwargs)
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        path = api.url + job.headers["location"]
        assert (await http.get(path, params={"wait": WAIT_S})).json()["status"] == "succeeded"
    return str(job.json()["id"])


async def listed(api: ApiChild) -> dict[str, str | None]:
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        models = (await http.get(api.url + "/v1/models")).json()["data"]
    return {model["id"]: model["parent"] for model in models}


@pytest.fixture
async def apis(
    start_worker: StartWorker,
    start_api: StartApi,
    service: Service,
    checkpoint: Path,
    allowed: Path,
) -> list[ApiChild]:
    """Return two api replicas, with two workers that may load adapters."""
    settings = {"model": checkpoint, "adapter_mode": "serve", "runtime_adapters_dir": allowed}
    for worker in [start_worker(**settings) for _ in range(2)]:
        await service.ready(worker)
    replicas = [start_api(), start_api()]
    for replica in replicas:
        await replica.ready()
    return replicas


async def test_an_adapter_is_served_by_all_workers_until_it_is_unloaded(
    apis: list[ApiChild], checkpoint: Path, allowed: Path, tmp_path: Path
) -> None:
    api, other = apis
    assert (await complete(api, "ode")).status_code == 404
    loaded = await post(api, LOAD, lora_name="ode", lora_path="ode")
    assert (loaded.status_code, "ode" in loaded.text) == (200, True), loaded.text
    for replica in apis:
        assert await listed(replica) == {"model": None, "ode": "model"}
    expected = expected_texts(checkpoint, renamed(allowed, tmp_path))
    assert await texts(api, "ode") == {expected["ode"]} == await texts(other, "ode")
    assert await texts(api, "model") == {expected[None]}

    by_ode = await job_of(api, "ode")

    epic = {"lora_name": "ode", "lora_path": str(allowed / "epic")}
    twice = await post(api, LOAD, **epic)
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "lora_name")
    replaced = await post(api, LOAD, **epic, load_inplace=True)
    assert replaced.status_code == 200, replaced.text
    assert await texts(other, "ode") == {expected["epic"]}
    for route, body in (("continue", {"max_new_tokens": 1}), ("fork", {"at": 1})):
        refused = await post(other, f"/jobs/{by_ode}/{route}", **body)
        assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (409, "adapter")
        by_epic = await job_of(other, "ode")
        assert (await post(other, f"/jobs/{by_epic}/{route}", **body)).status_code == 202

    unloaded = await post(other, UNLOAD, lora_name="ode")
    assert unloaded.status_code == 200, unloaded.text
    assert await listed(api) == {"model": None}
    assert (await complete(other, "ode")).status_code == 404
    assert (await post(api, UNLOAD, lora_name="ode")).status_code == 404


async def test_a_worker_that_starts_later_serves_the_adapter(
    start_worker: StartWorker,
    service: Service,
    apis: list[ApiChild],
    checkpoint: Path,
    allowed: Path,
) -> None:
    await post(apis[0], LOAD, lora_name="ode", lora_path="ode")
    late = start_worker(model=checkpoint, adapter_mode="serve", runtime_adapters_dir=allowed)
    await service.ready(late)
    first = await texts(apis[0], "ode")
    workers = {worker.id: worker for worker in await service.registry.workers()}
    assert len(first) == 1 and workers[late.id].adapter_generation == 1
    assert "ode" in await listed(apis[1])


async def test_no_file_outside_of_the_folder_is_read(apis: list[ApiChild], tmp_path: Path) -> None:
    for path in ("link", "../outside", str(tmp_path / "outside"), "/etc", "empty", "missing"):
        refused = await post(apis[0], LOAD, lora_name="bad", lora_path=path)
        assert refused.status_code == 400, path
        assert refused.json()["error"]["param"] == "lora_path"
        assert "must be a folder with an adapter_config.json below" in refused.text
    assert await listed(apis[1]) == {"model": None}


def renamed(allowed: Path, tmp_path: Path) -> Path:
    """Return a folder with the two valid adapters alone."""
    folder = tmp_path / "valid"
    folder.mkdir()
    for name in ("ode", "epic"):
        (folder / name).symlink_to(allowed / name)
    return folder


async def test_without_the_setting_no_adapter_is_loaded(
    start_worker: StartWorker, start_api: StartApi, service: Service
) -> None:
    await service.ready(start_worker())
    api = start_api()
    await api.ready()
    refused = await post(api, LOAD, lora_name="ode", lora_path="/etc")
    assert refused.status_code == 400
    assert "--runtime-adapters-dir" in refused.json()["error"]["message"]
