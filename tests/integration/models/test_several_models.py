"""Two models behind two api replicas: each has one worker, and a queue of its own."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

from shared.process.sockets import free_port
from tests.integration.service import WAIT_S, launch
from tests.processes import end
from tests.redis_server import running_redis
from tests.worker.peft_adapters import write_adapter
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.integration

STYLES = {"alpha": "7b", "beta": "40b"}  # of each model; alpha is the first one
PROMPT = {"prompt": "Once upon a time"}
SHORT = {"generate_kwargs": {"max_new_tokens": 3}}
SUBMISSIONS: dict[str, dict[str, Any]] = {
    "/chat": PROMPT | SHORT,
    "/jobs": PROMPT | SHORT,
    "/v1/completions": PROMPT | {"max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 3},
}
OTHERS: dict[str, dict[str, Any]] = {
    "/estimate": PROMPT | SHORT,
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/tokenize": PROMPT,
    "/detokenize": {"tokens": [20, 21]},
    "/v1/load_lora_adapter": {"lora_name": "ode", "lora_path": "ode"},
    "/v1/unload_lora_adapter": {"lora_name": "ode"},
}


@dataclass
class TwoModels:
    """The service; `api` accepts requests, and `other` is the replica that must find their jobs."""

    redis_url: str
    folder: Path  # has the checkpoints and the logs
    stack: ExitStack
    api: httpx.Client = field(init=False)
    other: httpx.Client = field(init=False)
    workers: dict[str, "Popen[bytes]"] = field(default_factory=dict)

    def start_worker(self, model: str) -> None:
        """Start the worker of a model, whose id is the model's name."""
        settings = {
            "worker_id": model,
            "model": self.folder / model,
            "chat_template": "falcon-instruct",
            "adapter_mode": "serve",
            "runtime_adapters_dir": self.folder,
        }
        self.workers[model] = self._launch("worker", settings, model)

    def start_api(self) -> httpx.Client:
        port = free_port()
        self._launch("api", {"port": port}, f"api-{port}")
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=WAIT_S)
        return self.stack.enter_context(client)

    def _launch(self, command: str, settings: dict[str, object], name: str) -> "Popen[bytes]":
        shared = {"redis_url": self.redis_url, "models": ",".join(STYLES)}
        process = launch(command, shared | settings, self.folder / f"{name}.log")
        self.stack.callback(end, process)
        return process

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        response = self.api.post(path, json=body)
        assert response.status_code == status, response.text
        return response.json()

    def job(self, job_id: str, wait: int = 120) -> Any:
        """Return a job as the other replica shows it, at its end or after so many seconds."""
        return self.other.get(f"/jobs/{job_id}", params={"wait": wait}).json()

    def metric(self, name: str) -> float:
        text = self.other.get("/metrics").text
        return float(text.partition(f"\n{name} ")[2].partition("\n")[0] or -1)

    def is_healthy(self, model: str) -> bool:
        params = {"model": model}
        return all(
            client.get("/health", params=params).is_success for client in (self.api, self.other)
        )


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoModels]:
    folder = tmp_path_factory.mktemp("models")
    for name, like in STYLES.items():
        write_random_checkpoint(folder / name, like=like)
    write_adapter(folder / "ode", folder / "beta")
    (folder / "redis").mkdir()
    with running_redis(folder / "redis") as redis, ExitStack() as stack:
        service = TwoModels(redis.url, folder, stack)
        for name in STYLES:
            service.start_worker(name)
        service.api, service.other = service.start_api(), service.start_api()
        eventually(lambda: is_up(service.api) and is_up(service.other))
        eventually(lambda: all(service.is_healthy(name) for name in STYLES))
        yield service


@pytest.mark.parametrize("path", SUBMISSIONS)
def test_a_job_runs_on_the_worker_of_its_model(models: TwoModels, path: str) -> None:
    status = 202 if path == "/jobs" else 200
    for model, worker in ((None, "alpha"), ("alpha", "alpha"), ("beta", "beta")):
        named = {} if model is None else {"model": model}
        answer = models.post(path, status, **SUBMISSIONS[path], **named)
        job = models.job(answer["id"])
        assert (job["status"], job["worker"]) == ("succeeded", worker)
        if path.startswith("/v1/"):
            assert answer["model"] == worker


def test_routes_without_a_job_use_the_tokenizer_and_the_queue_of_the_model(
    models: TwoModels,
) -> None:
    for model in STYLES:
        tokens = models.post("/tokenize", **PROMPT, model=model)["tokens"]
        assert models.post("/detokenize", tokens=tokens, model=model) == PROMPT
        assert models.post("/estimate", **PROMPT, **SHORT, model=model)["accepted"]
        body = {"input": "Hi", "model": model}
        assert models.post("/v1/responses/input_tokens", **body)["input_tokens"] > 0
        assert models.other.get("/tokenizer_info", params={"model": model}).is_success


@pytest.mark.parametrize("path", SUBMISSIONS | OTHERS)
def test_an_unknown_model_gets_404_with_all_names_in_the_form_of_the_route(
    models: TwoModels, path: str
) -> None:
    answer = models.post(path, 404, **(SUBMISSIONS | OTHERS)[path], model="gamma")
    message = "model: no model 'gamma'; there are: alpha, beta"
    if path.startswith("/v1/"):
        error = answer["error"]
        assert (error["message"], error["param"]) == (message, "model")
        assert error["code"] == "model_not_found"
    else:
        assert answer == {"detail": message}


def test_an_unknown_model_in_a_query_gets_404_with_all_names(models: TwoModels) -> None:
    for path in ("/health", "/healthz", "/tokenizer_info"):
        answer = models.api.get(path, params={"model": "gamma"})
        assert answer.status_code == 404
        assert "there are: alpha, beta" in answer.json()["detail"]


def test_the_lists_have_every_model_and_every_worker(models: TwoModels) -> None:
    listed = models.other.get("/v1/models").json()["data"]
    assert [(model["id"], model["parent"]) for model in listed] == [("alpha", None), ("beta", None)]
    assert models.other.get("/v1/models/beta").json()["root"] == "beta"
    workers = models.other.get("/workers").json()["workers"]
    assert [worker["model"] for worker in workers] == ["alpha", "beta"]


def test_the_lines_of_a_batch_go_to_the_models_that_they_name(models: TwoModels) -> None:
    names = ["alpha", "beta", "gamma"]
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/completions",
            "body": PROMPT | {"max_tokens": 3, "model": name},
        }
        for name in names
    ]
    content = "\n".join(map(json.dumps, lines))
    file = models.api.post(
        "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}
    ).json()
    request = {"endpoint": "/v1/completions", "completion_window": "24h"}
    batch_id = models.post("/v1/batches", input_file_id=file["id"], **request)["id"]

    def batch() -> Any:
        return models.other.get(f"/v1/batches/{batch_id}").json()

    eventually(lambda: batch()["status"] == "completed")
    assert workers_of(models, batch()["output_file_id"]) == {"alpha": "alpha", "beta": "beta"}
    refused = models.other.get(f"/v1/files/{batch()['error_file_id']}/content").json()
    assert refused["custom_id"] == "gamma"
    assert "there are: alpha, beta" in refused["response"]["body"]["error"]["message"]


def workers_of(models: TwoModels, file_id: str) -> dict[str, str]:
    """Return the worker that answered each line of an output file."""
    content = models.other.get(f"/v1/files/{file_id}/content").text
    answers = [json.loads(line) for line in content.splitlines()]
    return {
        one["custom_id"]: models.job(one["response"]["body"]["id"])["worker"] for one in answers
    }


def test_another_replica_streams_continues_and_lists_the_jobs_of_any_model(
    models: TwoModels,
) -> None:
    kwargs = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    first = models.post("/jobs", 202, **PROMPT, generate_kwargs=kwargs, model="beta")
    assert models.job(first["id"])["status"] == "succeeded"
    events = models.other.get(f"/jobs/{first['id']}/events").text
    assert events.count("data:") == 5  # four tokens and the end
    longer = models.other.post(f"/jobs/{first['id']}/continue", json={"max_new_tokens": 3}).json()
    whole = models.job(longer["id"])
    assert (whole["worker"], whole["result"]["usage"]["completion_tokens"]) == ("beta", 7)
    listed = models.other.get("/jobs", params={"limit": 2}).json()["jobs"]
    assert [job["id"] for job in listed] == [longer["id"], first["id"]]
    assert {job["model"] for job in [first, longer, whole, *listed]} == {"beta"}
    of_beta = models.other.get("/jobs", params={"model": "beta"}).json()["jobs"]
    of_alpha = models.other.get("/jobs", params={"model": "alpha"}).json()["jobs"]
    assert {job["model"] for job in of_beta} == {"beta"}
    assert first["id"] not in {job["id"] for job in of_alpha}

    response = models.post("/v1/responses", input="Hi", model="beta", background=True)
    eventually(lambda: models.job(response["id"])["status"] == "succeeded")
    seen = models.other.get(f"/v1/responses/{response['id']}").json()
    assert (seen["model"], seen["usage"]["output_tokens"] > 0) == ("beta", True)


def test_an_adapter_routes_to_its_model_and_no_name_is_taken_twice(models: TwoModels) -> None:
    load, ode = "/v1/load_lora_adapter", {"lora_name": "ode", "lora_path": "ode"}
    for name in ("alpha", "beta"):
        body = {"lora_name": name, "lora_path": "ode", "model": "beta"}
        assert models.post(load, 400, **body)["error"]["param"] == "lora_name"
    assert models.api.post(load, json=ode | {"model": "beta"}).is_success
    assert models.post(load, 400, **ode, model="alpha")["error"]["param"] == "lora_name"
    answer = models.post("/v1/completions", **PROMPT, max_tokens=3, model="ode")
    assert models.job(answer["id"])["worker"] == "beta"
    listed = models.other.get("/v1/models").json()["data"]
    assert [(model["id"], model["parent"]) for model in listed][2:] == [("ode", "beta")]
    unload = {"lora_name": "ode", "model": "beta"}
    assert models.api.post("/v1/unload_lora_adapter", json=unload).is_success


def test_a_model_without_workers_keeps_its_jobs_while_the_other_serves(models: TwoModels) -> None:
    end(models.workers["beta"])
    eventually(lambda: models.metric('falconer_workers{model="beta"}') == 0)
    assert not models.api.get("/health", params={"model": "beta"}).is_success
    assert models.is_healthy("alpha")

    estimate = models.post("/estimate", **PROMPT, **SHORT, model="beta")
    assert (estimate["accepted"], estimate["waiting_for"]) == (True, "worker")
    kept, dropped = (
        models.post("/jobs", 202, **PROMPT, **SHORT, model="beta")["id"] for _ in range(2)
    )
    assert models.job(dropped, wait=0)["position"] == 2
    waiting = 'falconer_queue_depth{{model="{}",state="waiting"}}'
    assert models.metric(waiting.format("beta")) == 2
    assert models.metric(waiting.format("alpha")) == 0
    assert models.job(models.post("/chat", **PROMPT, **SHORT)["id"])["worker"] == "alpha"

    cancelled = models.other.delete(f"/jobs/{dropped}").json()
    assert cancelled["status"] == "cancelled"
    assert models.metric(waiting.format("beta")) == 1
    assert models.metric('falconer_jobs_total{model="beta",status="cancelled"}') == 1
    retried = models.other.post(f"/jobs/{dropped}/retry").json()["id"]
    assert models.metric(waiting.format("beta")) == 2

    models.start_worker("beta")
    eventually(lambda: models.is_healthy("beta"))
    assert [models.job(one)["worker"] for one in (kept, retried)] == ["beta", "beta"]
    counted = models.api.get("/metrics").text
    for name in STYLES:
        assert f'falconer_tokens_total{{kind="generated",model="{name}"}}' in counted
