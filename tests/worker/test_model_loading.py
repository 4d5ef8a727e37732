"""What a worker's settings make of its engine."""

from typing import Any

import pytest

from shared.settings import load_settings
from worker.model_loading import load_model
from worker.settings import WorkerSettings


@pytest.mark.parametrize(("flags", "expected"), [({}, None), ({"prompt_lookup": 7}, 7)])
def test_drafts_are_off_unless_the_worker_is_told(
    flags: dict[str, Any], expected: int | None
) -> None:
    settings = load_settings(WorkerSettings, {"device": "cpu", "executor": "torch", **flags})
    assert load_model(settings).engine.config.prompt_lookup_num_tokens == expected
