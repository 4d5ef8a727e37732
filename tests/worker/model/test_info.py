from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from worker.model.errors import CheckpointError
from worker.model.info import ModelInfo, describe
from worker.model.quantization import Quantization, quantize_rows
from worker.model.random_checkpoint import write_random_checkpoint
from worker.model.weights import load_model

FALCON_7B = ModelInfo(
    style="7b",
    num_parameters=6_921_720_704,
    dtype=torch.bfloat16,
    weight_bytes=2 * 6_921_720_704,
    kv_bytes_per_token=8192,
    context_length=2048,
    vocab_size=65024,
    num_layers=32,
    num_heads=71,
    num_kv_heads=1,
)


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_a_description_fits_the_loaded_model(checkpoint: Callable[[str], Path], like: str) -> None:
    info = describe(str(checkpoint(like)))
    model = load_model(str(checkpoint(like)), device=torch.device("cpu"))
    assert info.style == like
    assert info.num_parameters == sum(parameter.numel() for parameter in set(model.parameters()))
    assert info.weight_bytes == 4 * info.num_parameters
    assert info.kv_bytes_per_token == model.config.kv_bytes_per_token(torch.float32)


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_the_size_of_int8_weights_is_foretold(checkpoint: Callable[[str], Path], like: str) -> None:
    info = describe(str(checkpoint(like)), Quantization.INT8)
    model = load_model(str(checkpoint(like)), device=torch.device("cpu"))
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights_and_scales = [tensor for linear in linears for tensor in quantize_rows(linear.weight)]
    for linear in linears:
        linear.register_parameter("weight", None)
    rest = set(model.parameters())
    assert info.weight_bytes == sum(tensor.nbytes for tensor in [*weights_and_scales, *rest])
    assert info.dtype is torch.float32


def test_rows_share_what_the_weights_leave() -> None:
    memory_bytes = FALCON_7B.weight_bytes + 32 * 2048 * 8192
    assert FALCON_7B.rows_that_fit(memory_bytes) == 32
    assert FALCON_7B.rows_that_fit(memory_bytes - 1) == 31
    assert FALCON_7B.rows_that_fit(memory_bytes, context_length=256) == 256
    assert FALCON_7B.rows_that_fit(FALCON_7B.weight_bytes - 1) == 0


def test_a_checkpoint_that_would_not_load_is_not_described(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="never read"):
        describe(str(tmp_path))
