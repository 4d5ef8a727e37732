"""Layers of 8-bit floats, as torch computes them on a CPU, against torchao's own way back.

Whether a GPU computes the same is for `tests/gpu` to say: here is none.
"""

import importlib
from typing import Any

import pytest
import torch

from worker.model.falcon import FalconLinear

torchao = pytest.importorskip("torchao")


@pytest.fixture(autouse=True)
def any_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao refuses machines on which this would be slow."""
    quant_api = importlib.import_module("torchao.quantization.quant_api")
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularities: None)


def make_linear(rows: int = 48, *, bias: bool = False) -> FalconLinear:
    torch.manual_seed(0)
    return FalconLinear(64, rows, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


def float8_linear(linear: FalconLinear) -> Any:
    return importlib.import_module("worker.model.layers.float8_linear").Float8Linear(linear)


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_that_of_quantized_weights_and_inputs(bias: bool) -> None:
    layer = float8_linear(make_linear(bias=bias))
    input = torch.randn(7, 64).bfloat16()
    tensors = importlib.import_module("torchao.quantization")
    rounded = tensors.Float8Tensor.from_hp(input, granularity=tensors.PerRow())
    weight = layer.weight.dequantize(torch.float32)
    product = (rounded.dequantize(torch.float32) @ weight.T).bfloat16()
    expected = product if layer.bias is None else product + layer.bias
    torch.testing.assert_close(layer(input), expected, rtol=2e-2, atol=1e-2)


def test_the_quantized_weights_are_close_to_the_given_weights() -> None:
    linear = make_linear()
    weight = linear.weight.float().clone()
    rounded = float8_linear(linear).weight.dequantize(torch.float32)
    error = (rounded - weight).abs()
    assert 0 < error.mean() < 0.05 * weight.abs().mean()


def test_rows_of_all_sizes_share_no_scale() -> None:
    """But for the order of sums, which differs on a CPU with the number of rows."""
    layer = float8_linear(make_linear())
    rows = torch.randn(5, 64) * torch.tensor([[1.0], [100.0], [1e-3], [0.0], [1.0]])
    together = layer(rows.bfloat16())
    alone = torch.cat([layer(row[None]) for row in rows.bfloat16()])
    off = (together - alone).float().norm(dim=1)
    assert (off <= 0.01 * alone.float().norm(dim=1)).all()
    assert (alone.abs().amax(dim=1) > 0).tolist() == [True, True, True, False, True]


def test_sizes_that_the_gpu_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16, not 40 x 64"):
        float8_linear(make_linear(40))
