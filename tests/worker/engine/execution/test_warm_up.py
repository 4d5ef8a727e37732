"""What is computed before the first request, on a GPU and without."""

from pathlib import Path

import pytest
import torch

from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.execution.warm_up import CHUNK_TOKENS, warm_up_steps
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_model

BLOCK_SIZE = 4


def test_a_cpu_computes_one_row_and_two() -> None:
    steps = warm_up_steps(torch.device("cpu"), num_blocks=100, block_size=BLOCK_SIZE)
    assert [len(step.token_ids) for step in steps] == [1, 2]


@pytest.mark.parametrize("num_blocks", [3, 100])
def test_a_gpus_chunk_is_no_longer_than_the_cache_and_can_be_computed(
    num_blocks: int, tmp_path: Path
) -> None:
    *_, chunk = warm_up_steps(torch.device("cuda"), num_blocks=num_blocks, block_size=BLOCK_SIZE)
    assert len(chunk.token_ids) == min(CHUNK_TOKENS, num_blocks * BLOCK_SIZE)
    runner = ModelRunner.with_cache(
        load_model(str(write_random_checkpoint(tmp_path)), device=torch.device("cpu")),
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
    )
    logits = runner.compute_logits(runner.run_layers(chunk, []), chunk)
    assert logits.isfinite().all()
