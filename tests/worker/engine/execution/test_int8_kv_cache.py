"""An 8-bit KV cache on OpenVINO: close to the exact results, in the memory that was forecast."""

from array import array
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import EngineConfig, Executor
from worker.engine.execution.openvino_runner import OpenVinoRunner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import LoadedRunner, load_runner
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

RANDOM = Random(3)
PROMPT = [RANDOM.randrange(256) for _ in range(75)]
BLOCKS = [4, 1, 6]


@pytest.fixture(scope="module", params=["7b", "40b", "11b"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    return write_random_checkpoint(path, like=request.param, dtype=torch.bfloat16)


def load(folder: Path, **options: Any) -> LoadedRunner:
    options = {"dtype": "float32", "config": EngineConfig(num_blocks=8), **options}
    return load_runner(LoadOptions(str(folder), **options))


def compute(loaded: LoadedRunner, start: int, end: int, blocks: list[int]) -> torch.Tensor:
    """Compute the prompt's tokens from `start` to `end`; return the logits of the last."""
    sequence = make_sequence(PROMPT[:end])
    sequence.block_table = array("i", blocks)
    plan = StepPlan((Chunk(SequenceGroup([sequence]), sequence, start, end - start),))
    return loaded.runner.forward(plan).clone()


@pytest.mark.parametrize("chunk", [1, 75], ids=["token by token", "in one piece"])
def test_the_error_of_the_logits_is_small(folder: Path, chunk: int) -> None:
    exact, rounded = load(folder), load(folder, kv_dtype="int8")
    for start in range(0, len(PROMPT), chunk):
        expected = compute(exact, start, start + chunk, BLOCKS)
        logits = compute(rounded, start, start + chunk, BLOCKS)
        assert (logits - expected).square().mean().sqrt() < 0.1 * expected.std()
    assert not logits.equal(expected)


def test_a_sequence_continues_in_copied_blocks(folder: Path) -> None:
    loaded = load(folder, kv_dtype="int8")
    assert isinstance(loaded.runner, OpenVinoRunner)
    compute(loaded, 0, 70, BLOCKS)
    loaded.runner.copy_blocks([(BLOCKS[2], 7)])
    original = compute(loaded, 70, 71, BLOCKS)
    compute(loaded, 70, 75, BLOCKS)  # writes to the original block alone
    assert compute(loaded, 70, 71, [*BLOCKS[:2], 7]).equal(original)


def test_the_cache_takes_as_much_memory_as_forecast(folder: Path) -> None:
    loaded, whole = load(folder, kv_dtype="int8"), load(folder)
    assert isinstance(loaded.runner, OpenVinoRunner)
    assert loaded.report.memory is not None
    assert whole.report.memory is not None
    num_bytes = sum(cache.nbytes for cache in loaded.runner.kv_caches.values())
    assert num_bytes == loaded.report.memory.kv_bytes
    assert num_bytes < 0.5 * whole.report.memory.kv_bytes


def test_another_executor_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="kv_dtype int8 needs executor openvino, which runs in on"):
        load(folder, kv_dtype="int8", executor=Executor.TORCH)
    with pytest.raises(ValueError, match=r"needs executor openvino; .* block_size must be 32"):
        load(folder, kv_dtype="int8", config=EngineConfig(block_size=16))
