"""Adapters in a tensor-parallel network give the results of peft on the whole network."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.worker.engine.oracle import generate, silence
from tests.worker.engine.workload import ScheduledRequest, run_all
from tests.worker.peft_adapters import acting_as, load_peft, write_adapter
from worker.engine import AdapterMode, Engine, EngineConfig, SamplingParams
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

CONFIG = EngineConfig(max_rows=8, num_blocks=60, block_size=4, max_step_tokens=24)
GREEDY = SamplingParams(max_new_tokens=10)
NAMES = (None, "tales", "verse")

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def make_checkpoint(tmp_path: Path, like: str) -> Path:
    """Write a model and two adapters for it; return the folder of the model."""
    silence()
    path = write_random_checkpoint(tmp_path / "model", like=like)
    write_adapter(tmp_path / "adapters" / "verse", path, seed=1)
    write_adapter(tmp_path / "adapters" / "tales", path, seed=2, r=2, target_modules=["dense"])
    return path


def load(checkpoint: Path, mode: AdapterMode) -> Engine:
    return Engine.from_pretrained(
        str(checkpoint),
        dtype="float32",
        tensor_parallel=2,
        adapters_dir=str(checkpoint.parent / "adapters"),
        adapter_mode=mode,
        config=CONFIG,
    )


def random_prompts(count: int) -> list[tuple[int, ...]]:
    draw = Random(0)
    return [
        tuple(draw.randrange(20, 200) for _ in range(draw.randint(1, 20))) for _ in range(count)
    ]


def peft_model(checkpoint: Path) -> Any:
    adapters = checkpoint.parent / "adapters"
    return load_peft(checkpoint, adapters / "verse", adapters / "tales")


def test_two_processes_serve_adapters_as_peft_does(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, like="40b")
    scheduled_requests = [
        ScheduledRequest(prompt, GREEDY, adapter=NAMES[i % 3])
        for i, prompt in enumerate(random_prompts(9))
    ]
    results = run_all(load(checkpoint, AdapterMode.SERVE), scheduled_requests)
    oracle = peft_model(checkpoint)
    for scheduled, result in zip(scheduled_requests, results, strict=True):
        with acting_as(oracle, scheduled.adapter) as model:
            assert result.token_ids(0) == generate(model, list(scheduled.prompt), GREEDY)


def test_two_processes_merge_adapters_as_peft_does(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, like="rw")
    scheduled_requests = [ScheduledRequest(prompt, GREEDY) for prompt in random_prompts(4)]
    results = run_all(load(checkpoint, AdapterMode.MERGE), scheduled_requests)
    oracle = peft_model(checkpoint)
    oracle.add_weighted_adapter(["verse", "tales"], [1, 1], "both", combination_type="cat")
    with acting_as(oracle, "both") as model:
        for scheduled, result in zip(scheduled_requests, results, strict=True):
            assert result.token_ids(0) == generate(model, list(scheduled.prompt), GREEDY)
