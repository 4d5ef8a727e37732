"""Adapters through the whole service, selected by a request's `adapter`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.protocol import Succeeded
from tests.integration.service import WAIT_S, ApiChild, Service, WorkerChild
from tests.worker.peft_adapters import write_adapter
from worker.engine import AdapterMode, Engine, SamplingParams, generate
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]

PROMPT = "Once upon a time"
NUM_TOKENS = 8


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "model", like="7b")


@pytest.fixture
def adapters_dir(checkpoint: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "adapters"
    for seed, name in enumerate(("tales", "verse")):
        write_adapter(directory / name, checkpoint, seed=seed)
    return directory


async def ask(api: ApiChild, **body: Any) -> httpx.Response:
    kwargs = {"do_sample": False, "max_new_tokens": NUM_TOKENS, "eos_token_id": None}
    whole = {"prompt": PROMPT, "return_full_text": False, "generate_kwargs": kwargs} | body
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        return await http.post(api.url + "/chat", json=whole)


async def test_each_request_gets_the_adapter_that_it_names(
    start_worker: StartWorker,
    start_api: StartApi,
    service: Service,
    checkpoint: Path,
    adapters_dir: Path,
) -> None:
    worker = start_worker(model=checkpoint, adapters_dir=adapters_dir, adapter_mode="serve")
    api = start_api()
    await service.ready(worker)
    await api.ready()
    engine = Engine.from_pretrained(
        str(checkpoint), adapters_dir=str(adapters_dir), adapter_mode=AdapterMode.SERVE
    )
    params = SamplingParams(max_new_tokens=NUM_TOKENS)
    answers = {}
    for adapter in (None, "tales", "verse"):
        response = await ask(api, adapter=adapter)
        assert response.status_code == 200, response.text
        [[expected]] = generate(engine, [PROMPT], params, adapter=adapter)
        answers[adapter] = response.json()["Result"]
        assert answers[adapter] == expected.text
    assert len(set(answers.values())) == 3
    refused = await ask(api, adapter="prose")
    assert refused.status_code == 422
    assert "there are: tales, verse" in refused.json()["detail"]


async def test_merged_adapters_apply_to_all_requests(
    start_worker: StartWorker,
    service: Service,
    checkpoint: Path,
    adapters_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("verse", "0.5")
    worker = start_worker(model=checkpoint, adapters_dir=adapters_dir)
    await service.ready(worker)
    job = await service.submit(new_tokens=NUM_TOKENS, generate_kwargs={"do_sample": False})
    outcome = await job.end()
    assert isinstance(outcome, Succeeded)
    merged = Engine.from_pretrained(str(checkpoint), adapters_dir=str(adapters_dir))
    [[expected]] = generate(merged, [PROMPT], SamplingParams(max_new_tokens=NUM_TOKENS))
    assert outcome.result.sequences[0].text == expected.text
    registered = await service.registry.current_card()
    assert registered is not None
    assert registered.card.adapters == ()


async def test_an_incompatible_adapter_stops_the_start_with_one_line(
    start_worker: StartWorker, adapters_dir: Path
) -> None:
    worker = start_worker(adapters_dir=adapters_dir)  # with the bundled model
    assert await worker.exit_code() == 2
    *_, last = worker.log_text.splitlines()
    assert "cannot serve model 'tiny'" in worker.log_text
    assert "/tales: base_model.model.transformer.h.0" in last
    assert "Traceback" not in worker.log_text
