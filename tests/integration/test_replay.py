"""A replay finds the same tokens on the same model, and the first other token on another one."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from tests.integration.event_reader import TIMEOUT_S
from tests.integration.service import ApiChild, Service, WorkerChild, eventually
from tests.integration.test_continue import Client
from worker.model.checkpoint.tiny import bundled_checkpoint

pytestmark = pytest.mark.integration

KWARGS: dict[str, dict[str, Any]] = {
    "sampled": {"seed": 7, "temperature": 1.3},
    "unseeded": {},
    "three": {"seed": 9, "num_return_sequences": 3},
    "drafts": {"do_sample": False, "prompt_lookup_num_tokens": 5},
}


def other_checkpoint(folder: Path) -> Path:
    """Return the tiny model with other weights in its first layer."""
    shutil.copytree(bundled_checkpoint(), folder)
    [path] = folder.glob("*.safetensors")
    weights = load_file(path)
    name = "transformer.h.0.mlp.dense_4h_to_h.weight"
    weights[name] = weights[name] * 0.2
    save_file(weights, path, metadata={"format": "pt"})
    return folder


async def replay(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    replayed = await client.ended(await client.http.post(f"/jobs/{job['id']}/replay"))
    assert replayed["origin"] == {"kind": "replay", "job_id": job["id"]}
    return replayed


async def is_refused(http: httpx.AsyncClient, job_id: str) -> bool:
    """Return whether the api refuses the replay; it may know a new model a second later."""
    response = await http.post(f"/jobs/{job_id}/replay")
    if response.status_code == 202:
        path, params = response.headers["location"], {"wait": TIMEOUT_S}
        job = (await http.get(path, params=params)).json()
        assert job["error"]["status_code"] == 409, job
        return False
    assert response.status_code == 409
    return "the model is another one" in response.json()["detail"]


async def test_a_replay_finds_out_whether_the_tokens_are_the_same(
    service: Service,
    start_worker: Callable[..., WorkerChild],
    start_api: Callable[..., ApiChild],
    tmp_path: Path,
) -> None:
    api, worker = start_api(), start_worker()
    await service.ready(worker)
    await api.ready("/health")
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=TIMEOUT_S) as http:
        client = Client(http)
        jobs = {name: await client.run(30, kwargs) for name, kwargs in KWARGS.items()}
        body = {"at": 9, "generate_kwargs": {"seed": 3}}
        fork = await client.ended(await http.post(f"/jobs/{jobs['sampled']['id']}/fork", json=body))
        for job in (*jobs.values(), fork):
            replayed = await replay(client, job)
            assert replayed["replay"]["identical"], replayed["replay"]
            assert replayed["replay"]["first_difference"] is None
            assert replayed["result"]["sequences"] == job["result"]["sequences"]

        worker.process.send_signal(signal.SIGTERM)
        await worker.exit_code()
        other = start_worker(model=other_checkpoint(tmp_path / "other"))
        await service.ready(other)

        async def has_other_model() -> bool:
            models = (await http.get("/v1/models")).json()["data"]
            return [model["id"] for model in models] == ["other"]

        await eventually(has_other_model)
        for job in jobs.values():
            assert_different(job, await replay(client, job))

        await eventually(lambda: is_refused(http, fork["id"]))


def assert_different(job: dict[str, Any], replayed: dict[str, Any]) -> None:
    verdict = replayed["replay"]
    assert not verdict["identical"]
    first = verdict["first_difference"]
    old, new = (
        one["result"]["sequences"][first["sequence"]]["token_ids"] for one in (job, replayed)
    )
    index = first["index"]
    assert old[:index] == new[:index]
    assert (first["token_id"], first["replayed_token_id"]) == (old[index], new[index])
    source, present = verdict["source"], verdict["replay"]
    assert (source["worker"], source["model"]) == ("w1", "tiny")
    assert (present["worker"], present["model"]) == ("w2", "other")
    assert source["card_hash"] != present["card_hash"]
