from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from worker.model.checkpoint.info import describe
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_model, plan_loading
from worker.model.errors import CheckpointError
from worker.model.layers.quantization import Quantization, quantize_rows


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_a_description_fits_the_loaded_model(checkpoint: Callable[[str], Path], like: str) -> None:
    info = describe(plan_loading(checkpoint(like)))
    model = load_model(str(checkpoint(like)), device=torch.device("cpu"))
    assert info.config.style == like
    assert info.weight_bytes == sum(parameter.nbytes for parameter in set(model.parameters()))
    assert info.kv_bytes_per_token == model.config.kv_bytes_per_token(torch.float32)


def test_sizes_are_in_the_requested_dtype(checkpoint: Callable[[str], Path]) -> None:
    plan = plan_loading(checkpoint("7b"))
    stored, half = (describe(plan, dtype) for dtype in (None, torch.bfloat16))
    assert stored.dtype is torch.float32
    assert 2 * half.weight_bytes == stored.weight_bytes
    assert 2 * half.kv_bytes_per_token == stored.kv_bytes_per_token


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_the_size_of_int8_weights_is_forecast(checkpoint: Callable[[str], Path], like: str) -> None:
    info = describe(plan_loading(checkpoint(like)), quantization=Quantization.INT8)
    model = load_model(str(checkpoint(like)), device=torch.device("cpu"))
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights_and_scales = [tensor for linear in linears for tensor in quantize_rows(linear.weight)]
    for linear in linears:
        linear.register_parameter("weight", None)
    rest = set(model.parameters())
    assert info.weight_bytes == sum(tensor.nbytes for tensor in [*weights_and_scales, *rest])
    assert info.dtype is torch.float32


def test_a_checkpoint_that_would_not_load_is_not_described(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights in"):
        describe(plan_loading(tmp_path))
