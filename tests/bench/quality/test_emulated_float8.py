"""The arithmetic of fp8 layers, emulated without a GPU."""

import importlib

import pytest
import torch

from bench.quality.quantization import EmulatedFloat8Linear, round_rows
from worker.model.falcon import FalconLinear


def rows_of_all_sizes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[1.0], [100.0], [1e-3], [0.0], [1.0]])
    return (torch.randn(5, 64, generator=generator) * sizes).bfloat16()


def test_rows_are_rounded_as_torchao_does() -> None:
    pytest.importorskip("torchao")
    torchao = importlib.import_module("torchao.quantization")
    rows = rows_of_all_sizes()
    rounded = torchao.Float8Tensor.from_hp(rows, granularity=torchao.PerRow(), hp_value_lb=1e-12)
    assert torch.equal(round_rows(rows), rounded.dequantize(torch.float32))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_multiplies_rounded_inputs_by_rounded_weights(bias: bool) -> None:
    torch.manual_seed(0)
    linear = FalconLinear(64, 48, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    input = rows_of_all_sizes()
    product = round_rows(input) @ round_rows(linear.weight).T
    expected = product.bfloat16() if linear.bias is None else product.bfloat16() + linear.bias
    output = EmulatedFloat8Linear(linear)(input)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)
    error = (output - linear(input)).float().norm() / linear(input).float().norm()
    assert 0 < error < 0.08
