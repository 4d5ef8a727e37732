"""Tokenization of long texts: a few at a time, with a timeout, ended by a disconnect."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from httpx import Response

from api.jobs.tokenization import LONG_TEXT_CHARS, TOKENIZATION_SLOTS
from shared.protocol import ChatJob
from shared.request.parameters import GenerateKwargs
from tests.fakes_api import FakeService, abandoned_call

LONG = {"prompt": "a" * (LONG_TEXT_CHARS + 1), "handle_long_generation": "hole"}


class SlowTokenizer:
    """Blocks on long texts until `go_on` is set."""

    def __init__(self, service: FakeService, patch: pytest.MonkeyPatch) -> None:
        model = service.services.models.first.watcher.current
        assert model is not None
        self.go_on = threading.Event()
        self.started: list[ChatJob] = []
        self._tokenize = model.encoder.tokenize
        patch.setattr(model.encoder, "tokenize", self.tokenize)

    def tokenize(self, text: str, job: ChatJob, kwargs: GenerateKwargs) -> ChatJob:
        if len(text) > LONG_TEXT_CHARS:
            self.started.append(job)
            assert self.go_on.wait(30)
        return self._tokenize(text, job, kwargs)


@pytest.fixture
def tokenizer(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowTokenizer]:
    slow = SlowTokenizer(service, monkeypatch)
    yield slow
    slow.go_on.set()


async def requests_in_all_slots(
    service: FakeService, tokenizer: SlowTokenizer, num: int = TOKENIZATION_SLOTS
) -> list[asyncio.Task[Response]]:
    calls = [asyncio.create_task(service.http.post("/chat", json=LONG)) for _ in range(num)]
    await service.until(lambda: len(tokenizer.started) == TOKENIZATION_SLOTS)
    return calls


async def test_long_texts_wait_for_a_tokenization_slot_and_short_texts_do_not(
    service: FakeService, tokenizer: SlowTokenizer
) -> None:
    calls = await requests_in_all_slots(service, tokenizer, 5)
    assert (await service.http.post("/chat", json={"prompt": "short"})).status_code == 200
    assert len(tokenizer.started) == TOKENIZATION_SLOTS
    tokenizer.go_on.set()
    assert [(await call).status_code for call in calls] == [200] * 5
    assert len(tokenizer.started) == 5


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_a_long_text_without_a_slot_in_time_is_a_503(
    service: FakeService, tokenizer: SlowTokenizer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("api.jobs.tokenization.SLOT_TIMEOUT_S", 0.1)
    calls = await requests_in_all_slots(service, tokenizer)
    async with asyncio.timeout(30):
        response = await service.http.post(path, json=LONG)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 0
    assert "busy with other long prompts" in response.json()["detail"]
    tokenizer.go_on.set()
    assert [(await call).status_code for call in calls] == [200] * TOKENIZATION_SLOTS
    assert len(tokenizer.started) == TOKENIZATION_SLOTS


@pytest.mark.parametrize(
    ("body", "status_code"),
    [
        ({"prompt": "a" * 1_000_000}, 400),
        ({"messages": [{"role": "user", "content": "a" * 1_000_000}]}, 400),
        (LONG | {"adapter": "nowhere"}, 422),
        (LONG | {"generate_kwargs": {"eos_token_id": 10**6}}, 422),
    ],
)
async def test_an_invalid_long_text_is_refused_without_a_slot(
    service: FakeService, tokenizer: SlowTokenizer, body: dict[str, Any], status_code: int
) -> None:
    calls = await requests_in_all_slots(service, tokenizer)
    response = await service.http.post("/chat", json=body)
    assert response.status_code == status_code, response.text
    assert all(not call.done() for call in calls), "they still hold the slots"
    tokenizer.go_on.set()
    assert [(await call).status_code for call in calls] == [200] * TOKENIZATION_SLOTS


async def test_a_disconnect_while_waiting_for_a_slot_enqueues_nothing(
    service: FakeService, tokenizer: SlowTokenizer
) -> None:
    calls = await requests_in_all_slots(service, tokenizer)
    leave = asyncio.Event()
    call = asyncio.create_task(abandoned_call(service.asgi, LONG, leave))
    await asyncio.sleep(0.1)
    leave.set()
    async with asyncio.timeout(30):
        assert (await call)[0]["status"] == 499
    tokenizer.go_on.set()
    assert [(await call).status_code for call in calls] == [200] * TOKENIZATION_SLOTS
    assert len(tokenizer.started) == len(service.worker.seen) == TOKENIZATION_SLOTS


async def test_a_disconnect_frees_the_slot_once_its_text_is_tokenized(
    service: FakeService, tokenizer: SlowTokenizer
) -> None:
    leave = asyncio.Event()
    left = [
        asyncio.create_task(abandoned_call(service.asgi, LONG, leave))
        for _ in range(TOKENIZATION_SLOTS)
    ]
    await service.until(lambda: len(tokenizer.started) == TOKENIZATION_SLOTS)
    leave.set()
    await asyncio.gather(*left)
    call = asyncio.create_task(service.http.post("/chat", json=LONG))
    await asyncio.sleep(0.1)
    assert len(tokenizer.started) == TOKENIZATION_SLOTS
    tokenizer.go_on.set()
    assert (await call).status_code == 200
    assert len(service.worker.seen) == 1
