"""Let fuzzed requests succeed, and count the answers of each route.

Random ids exist nowhere, and a body with sixty random fields has an invalid field. Half of the
valid requests therefore get an id that exists, and few of their fields on top of a valid body.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

import httpx
import schemathesis

WAIT_S = 60.0
MAX_FIELDS = 2  # random fields on top of a valid body
HELLO = [{"role": "user", "content": "hello"}]
TEXT = {"prompt": "one two three"}
RESPONSE = {"input": "hello"}
LINES = {
    "requests": [{"custom_id": "a", "body": {"prompt": "hello"}}],
    "endpoint": "/v1/completions",
    "completion_window": "24h",
}

Body = dict[str, Any]
Make = Callable[[httpx.Client], str]


def created(http: httpx.Client, path: str, **options: Any) -> Body:
    response = http.post(path, **options)
    assert response.is_success, response.text
    body: Body = response.json()
    return body


def ended_job(http: httpx.Client, prompt: str = "one two three") -> str:
    body = {"prompt": prompt, "generate_kwargs": {"max_new_tokens": 3}}  # may be continued
    job_id = str(created(http, "/jobs", json=body)["id"])
    http.get(f"/jobs/{job_id}", params={"wait": WAIT_S}).raise_for_status()
    return job_id


def failed_job(http: httpx.Client) -> str:
    return ended_job(http, "fail")


def response_id(http: httpx.Client) -> str:
    return str(created(http, "/v1/responses", json=RESPONSE | {"background": True})["id"])


def file_id(http: httpx.Client) -> str:
    file = {"file": ("lines.jsonl", b"{}\n")}
    return str(created(http, "/v1/files", data={"purpose": "batch"}, files=file)["id"])


def batch_id(http: httpx.Client) -> str:
    return str(created(http, "/v1/batches", json=LINES)["id"])


def running_batch_id(http: httpx.Client) -> str:
    """Return a batch that has lines left when the next request comes."""
    lines = [{"custom_id": str(n), "body": {"prompt": "hello"}} for n in range(2000)]
    return str(created(http, "/v1/batches", json=LINES | {"requests": lines})["id"])


def model_id(http: httpx.Client) -> str:
    return str(http.get("/v1/models").json()["data"][0]["id"])


IDS: dict[str, Make] = {
    "job_id": ended_job,
    "response_id": response_id,
    "file_id": file_id,
    "batch_id": batch_id,
    "model_id": model_id,
}
BODIES: dict[str, Body] = {
    "POST /chat": TEXT,
    "POST /jobs": TEXT,
    "POST /estimate": TEXT,
    "POST /jobs/{job_id}/continue": {"max_new_tokens": 7},
    "POST /jobs/{job_id}/fork": {"at": 1},
    "POST /v1/chat/completions": {"messages": HELLO},
    "POST /v1/completions": {"prompt": "hello"},
    "POST /v1/responses": RESPONSE,
    "POST /v1/responses/input_tokens": RESPONSE,
    "POST /v1/batches": LINES,
    "POST /tokenize": {"prompt": "hello"},
    "POST /detokenize": {"tokens": [1, 2]},
}
LOAD, UNLOAD = "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter"
OWN_IDS: dict[str, Make] = {
    "POST /jobs/{job_id}/retry": failed_job,
    "POST /v1/batches/{batch_id}/cancel": running_batch_id,
}


@dataclass
class Reach:
    """Prepare requests to the service of `http`, and count its statuses by route."""

    http: httpx.Client
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def prepare(self, case: schemathesis.Case[Any]) -> None:
        """Let half of the valid requests succeed; the same request always gets the same change."""
        draw = Random(crc32(repr((case.path_parameters, case.query, case.body)).encode()))
        label, is_kept = case.operation.label, draw.random() < 0.5
        if case.meta is None or not case.meta.generation.mode.is_positive:
            return
        if "Idempotency-Key" in (case.headers or {}):  # else most keys belong to other bodies
            case.headers["Idempotency-Key"] = f"{draw.getrandbits(64):x}"
        if is_kept:
            return
        for name in case.path_parameters or {}:
            case.path_parameters[name] = OWN_IDS.get(label, IDS[name])(self.http)
        if label in (LOAD, UNLOAD):
            self.name_an_adapter(case, f"tale-{draw.getrandbits(64):x}")
        if label in BODIES and isinstance(case.body, dict):
            others = sorted(case.body.keys() - BODIES[label])
            chosen = draw.sample(others, min(MAX_FIELDS, len(others)))
            case.body = BODIES[label] | {name: case.body[name] for name in chosen}

    def name_an_adapter(self, case: schemathesis.Case[Any], name: str) -> None:
        """Give a request to load a new name, and a request to unload a loaded one."""
        case.body = {"lora_name": name, "lora_path": "tales"}
        if case.operation.label == UNLOAD:
            self.http.post("/v1/load_lora_adapter", json=case.body).raise_for_status()
            case.body = {"lora_name": name}

    def count(self, case: schemathesis.Case[Any], status: int) -> None:
        self.statuses[case.operation.label][status] += 1

    def without_success(self) -> list[str]:
        """Return the routes that were called, but never with success."""
        return [
            route
            for route, statuses in self.statuses.items()
            if not any(200 <= status < 300 for status in statuses)
        ]
