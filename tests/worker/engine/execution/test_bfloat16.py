"""Both executors in bfloat16: as exact as transformers in bfloat16, whatever runs in the batch."""

from array import array
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from tests.worker.engine.oracle import silence
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import EngineConfig, Executor
from worker.engine.execution.torch_runner import Runner
from worker.engine.loading.compatibility import multiplies_bfloat16
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import load_runner
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan

BLOCKS_PER_ROW = 3
NUM_ROWS = 16
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"multi_query": True, "parallel_attn": True},
    "40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "sequential": {"multi_query": False, "parallel_attn": False},
}
WITH_BFLOAT16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="the CPU lacks bfloat16")
EXECUTORS = [Executor.TORCH, pytest.param(Executor.OPENVINO, marks=WITH_BFLOAT16)]


def write_falcon(path: Path, **shape: Any) -> Any:
    """Write a checkpoint in bfloat16; return transformers' model of it in float32."""
    silence()
    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=512, hidden_size=256, num_hidden_layers=4, num_attention_heads=8, **shape
    )
    falcon: Any = FalconForCausalLM(config)
    for parameter in falcon.parameters():  # biases too, which start at zero
        parameter.data.normal_(std=0.06)
    falcon.bfloat16().save_pretrained(path)
    return falcon.float().eval()


def prompts() -> list[list[int]]:
    random = Random(1)
    lengths = [random.randint(2, 32 * BLOCKS_PER_ROW) for _ in range(NUM_ROWS)]
    return [[random.randrange(512) for _ in range(length)] for length in lengths]


def load(path: Path, executor: Executor) -> Runner:
    config = EngineConfig(num_blocks=BLOCKS_PER_ROW * NUM_ROWS)
    return load_runner(
        LoadOptions(str(path), dtype="bfloat16", executor=executor, config=config)
    ).runner


def chunk(row: int, token_ids: list[int], start: int) -> Chunk:
    """Return a chunk that computes the tokens from `start` on, in blocks of its row."""
    sequence = make_sequence(token_ids)
    first = row * BLOCKS_PER_ROW
    sequence.block_table = array("i", range(first, first + BLOCKS_PER_ROW))
    return Chunk(SequenceGroup([sequence]), sequence, start, len(token_ids) - start)


def last_logits(runner: Runner) -> torch.Tensor:
    """Compute each prompt in one piece, all of them in one step."""
    chunks = [chunk(row, token_ids, 0) for row, token_ids in enumerate(prompts())]
    return runner.forward(StepPlan(tuple(chunks))).clone()


@torch.inference_mode()
def oracle_logits(model: Any) -> torch.Tensor:
    rows = [model(torch.tensor([token_ids])).logits[0, -1].float() for token_ids in prompts()]
    return torch.stack(rows)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_about_that_of_transformers_in_bfloat16(
    shape: str, bias: bool, executor: Executor, tmp_path: Path
) -> None:
    model = write_falcon(tmp_path, bias=bias, **SHAPES[shape])
    exact = oracle_logits(model)
    error = (last_logits(load(tmp_path, executor)) - exact).square().mean().sqrt()
    allowed = (oracle_logits(deepcopy(model).bfloat16()) - exact).square().mean().sqrt()
    print(f"{error / exact.std():.4f} of {allowed / exact.std():.4f}")
    assert 0 < error < 1.3 * allowed < 0.1 * exact.std()


@WITH_BFLOAT16
def test_on_openvino_a_row_does_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    """Prompts and single tokens alike, to the last bit."""
    write_falcon(tmp_path, **SHAPES["7b"])
    runner = load(tmp_path, Executor.OPENVINO)
    together = last_logits(runner)
    next_tokens = [
        chunk(row, [*token_ids, 7], len(token_ids)) for row, token_ids in enumerate(prompts())
    ]
    next_together = runner.forward(StepPlan(tuple(next_tokens))).clone()
    for row, token_ids in enumerate(prompts()):
        alone = runner.forward(StepPlan((chunk(row, token_ids, 0),)))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=0)
        alone = runner.forward(StepPlan((next_tokens[row],)))
        torch.testing.assert_close(alone[0], next_together[row], rtol=0, atol=0)
