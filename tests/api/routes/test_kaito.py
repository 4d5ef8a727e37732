"""The statements of docs/guides/kaito.md, compared with the service."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.refusals import JSON
from tests.fakes_api import FakeService

PAGE = (Path(__file__).parents[3] / "docs" / "guides" / "kaito.md").read_text(encoding="utf-8")
PROMPT_REQUIRED = {"detail": "Text generation parameter prompt required"}
TURN = {"role": "user", "content": "x"}


def differences() -> dict[str, str]:
    """Return the items of "Every difference": what differs, and how Falconer responds."""
    section = re.sub(r"\n +", " ", PAGE.partition("## Every difference")[2])
    return dict(re.findall(r"^- (.+?): (.+)$", section, flags=re.MULTILINE))


HERE = differences()

# The first part of an item, a body, and the documented status.
REQUESTS: list[tuple[str, dict[str, Any], int]] = [
    ("unknown fields of the body", {"prompt": "a", "engine": "falcon"}, 422),
    ("unknown names in `generate_kwargs`", {"prompt": "a", "generate_kwargs": {"x": 1}}, 422),
    ("numbers", {"prompt": "a", "generate_kwargs": {"max_length": 50.0}}, 200),
    ("numbers", {"prompt": "a", "generate_kwargs": {"max_length": "50"}}, 422),
    ("booleans", {"prompt": "a", "return_full_text": "yes"}, 422),
    ("booleans", {"prompt": "a", "return_full_text": 1}, 422),
    ("`null` in `generate_kwargs`", {"prompt": "a", "generate_kwargs": {"max_length": None}}, 200),
    ("`prompt` with `messages`", {"prompt": "a", "messages": [TURN]}, 422),
    ("`prompt` with `messages`", {"prompt": "a", "messages": []}, 200),
    ("no `messages`", {"messages": []}, 400),
    ("`content` of a message", {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "a"}]}]}, 200),
    ("`name` of a message", {"messages": [TURN | {"name": "Ann"}]}, 200),
    ("`role` of a message", {"messages": [TURN | {"role": "tool"}]}, 400),
    ("`prefix` with `messages`", {"messages": [TURN], "prefix": "a"}, 422),
    ("`handle_long_generation` with `messages`",
     {"messages": [TURN], "handle_long_generation": "hole"}, 200),
    ('`handle_long_generation` other than `"hole"`',
     {"prompt": "a", "handle_long_generation": "cut"}, 422),
    ("`bad_words_ids`", {"prompt": "a", "generate_kwargs": {"bad_words_ids": [1, 2]}}, 200),
    ("a prompt that leaves no room in a given `max_length`",
     {"prompt": "a" * 9, "generate_kwargs": {"max_length": 9}}, 400),
    ("a prompt of 200 tokens or more without a length", {"prompt": "a" * 300}, 200),
    ("prompt and new tokens beyond the context", {"prompt": "a" * 2048}, 400),
    ("prompt and new tokens beyond the context",
     {"prompt": "a" * 2048, "handle_long_generation": "hole"}, 200),
    ("sequences, beams, lists", {"prompt": "a", "generate_kwargs": {"num_beams": 1000}}, 422),
    ("size of the body", {"prompt": "a" * 2_000_000}, 413),
]  # fmt: skip


async def test_requests_get_the_documented_status(service: FakeService) -> None:
    for row, body, status in REQUESTS:
        response = await service.http.post("/chat", json=body)
        assert response.status_code == status, (row, response.text)
        if status != 200 and status != 413 and not HERE[row].startswith("limits"):
            refused_in_words = str(status) in HERE[row] or "alone" in HERE[row]
            assert refused_in_words, row
    assert (await service.http.post("/chat", json={})).json() == PROMPT_REQUIRED
    assert (await service.http.post("/chat", json={"messages": []})).json() == PROMPT_REQUIRED


@pytest.mark.parametrize(("media_type", "status"), [("text/plain", 415), (None, 200)])
async def test_the_body_is_json_or_of_no_type(
    service: FakeService, media_type: str | None, status: int
) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = await service.http.post("/chat", content=b'{"prompt": "a"}', headers=headers)
    assert response.status_code == status
    assert str(415) in HERE["`Content-Type`"]


async def test_responses_have_the_documented_form(service: FakeService) -> None:
    answer = (await service.http.post("/chat", json={"prompt": "a b"})).json()
    assert next(iter(answer)) == "Result"
    assert HERE["200"] == "`Result`, and `id`, `sequences`, `usage`, `seed`"
    assert set(answer) == {"Result", "id", "sequences", "usage", "seed"}
    assert answer["Result"].startswith("a b")
    reply = (await service.http.post("/chat", json={"messages": [TURN]})).json()["Result"]
    assert TURN["content"] not in reply
    refused = await service.http.post("/chat", content=b'{"prompt": 5}', headers=JSON)
    assert isinstance(json.loads(refused.text)["detail"], str)


async def test_the_other_routes_respond_as_documented(
    service: FakeService, workerless: FakeService
) -> None:
    assert (await service.http.get("/")).json() == {"message": "Server is running"}
    assert (await service.http.get("/health")).json() == {"status": "Healthy"}
    unhealthy = await workerless.http.get("/health")
    assert (unhealthy.status_code, "Retry-After" in unhealthy.headers) == (503, True)
    prometheus = await service.http.get("/metrics")
    assert prometheus.headers["content-type"].startswith("text/plain")
    load = (await service.http.get("/metrics", headers={"Accept": "application/json"})).json()
    assert load["gpu_info"] is None
    assert set(load["cpu_info"]) == {
        "load_percentage", "physical_cores", "total_cores", "memory"
    }  # fmt: skip


async def test_null_has_the_documented_meaning(service: FakeService) -> None:
    nulls = {"max_length": None, "eos_token_id": None, "top_k": None}
    await service.http.post("/chat", json={"prompt": "a", "generate_kwargs": nulls})
    job = service.worker.seen[-1]
    assert job.generate_kwargs == {"eos_token_id": None, "top_k": None}
    assert job.max_new_tokens == 199


def test_every_field_of_a_request_is_documented() -> None:
    """The fields of a preset's request have KAITO's names."""
    fields = ("prompt", "messages", "return_full_text", "clean_up_tokenization_spaces", "prefix")
    for name in (*fields, "handle_long_generation", "generate_kwargs"):
        assert f"`{name}`" in PAGE
    assert len(HERE) >= 30
