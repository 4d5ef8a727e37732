"""From a request to a job: long texts do not crowd out the rest."""

import asyncio
import threading

import pytest

from api.admission import LONG_TEXT, MAX_LONG_TEXTS
from shared.parameters import GenerateKwargs
from shared.prompt import Prepared
from shared.protocol import Prompt
from tests.fakes_api import FakeService


async def test_only_so_many_long_texts_are_prepared_at_a_time_and_short_ones_pass(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = service.services.models.current
    assert model is not None
    prepare, go_on, started = model.encoder.prepare, threading.Event(), list[Prompt]()

    def slow_if_long(
        prompt: Prompt, kwargs: GenerateKwargs, adapter: str | None = None
    ) -> Prepared:
        if len(prompt.text or "") > LONG_TEXT:
            started.append(prompt)
            assert go_on.wait(30)
        return prepare(prompt, kwargs)

    monkeypatch.setattr(model.encoder, "prepare", slow_if_long)
    body = {"prompt": "a" * (LONG_TEXT + 1), "handle_long_generation": "hole"}
    calls = [asyncio.create_task(service.http.post("/chat", json=body)) for _ in range(5)]
    await service.until(lambda: len(started) == MAX_LONG_TEXTS)
    assert (await service.http.post("/chat", json={"prompt": "short"})).status_code == 200
    assert len(started) == MAX_LONG_TEXTS
    go_on.set()
    assert [(await call).status_code for call in calls] == [200] * 5
    assert len(started) == 5
