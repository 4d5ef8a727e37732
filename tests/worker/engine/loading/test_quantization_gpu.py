"""8-bit weights on a GPU; written where there was none, and not run yet."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.engine.oracle import generate
from tests.worker.engine.quantized_oracle import (
    GREEDY,
    generate_all,
    quantized_oracle,
    scheduled_requests,
)
from worker.engine import Engine, EngineConfig, Quantization
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.falcon import FalconLinear

FLOAT8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_float8 = pytest.mark.skipif(not FLOAT8, reason="needs compute capability 8.9")


def load(path: Path, **options: Any) -> Engine:
    config = EngineConfig(max_rows=16, num_blocks=128)
    return Engine.from_pretrained(str(path), device="cuda", config=config, **options)


def test_weight_only_equals_generate_with_the_quantized_weights(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path)
    oracle, workload = quantized_oracle(path), scheduled_requests(6)
    engine = load(path, dtype="float32", quantization=Quantization.INT8_WEIGHT_ONLY)
    expected = [generate(oracle, list(scheduled.prompt), GREEDY) for scheduled in workload]
    assert generate_all(engine, workload) == expected


@needs_float8
def test_a_float8_layer_is_close_to_the_layer_it_came_from() -> None:
    pytest.importorskip("torchao")
    from worker.model.layers.float8_linear import Float8Linear

    linear = FalconLinear(256, 128, dtype=torch.bfloat16, device="cuda").requires_grad_(False)
    input = torch.randn(5, 256, dtype=torch.bfloat16, device="cuda")
    expected = linear(input)
    error = (Float8Linear(linear)(input) - expected).float().norm() / expected.float().norm()
    assert 0 < error < 0.08


@needs_float8
def test_rows_of_all_sizes_share_no_scale() -> None:
    """But for the order of sums: cuBLAS chooses a kernel by the number of rows."""
    pytest.importorskip("torchao")
    from worker.model.layers.float8_linear import Float8Linear

    linear = FalconLinear(256, 128, bias=False, dtype=torch.bfloat16, device="cuda")
    layer = Float8Linear(linear.requires_grad_(False))
    sizes = torch.tensor([[1.0], [100.0], [1e-3], [0.0], [1.0]], device="cuda")
    rows = (torch.randn(5, 256, device="cuda") * sizes).bfloat16()
    together = layer(rows).float()
    alone = torch.cat([layer(row[None]) for row in rows]).float()
    assert ((together - alone).norm(dim=1) <= 0.01 * alone.norm(dim=1)).all()


@needs_float8
def test_an_engine_in_fp8_answers_every_request(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    path = write_random_checkpoint(tmp_path, dtype=torch.bfloat16)
    assert all(generate_all(load(path, quantization=Quantization.FP8), scheduled_requests(8)))
