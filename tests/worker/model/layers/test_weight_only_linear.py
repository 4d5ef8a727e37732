"""Linear layers of 8-bit weights, against the same layers with the rounded weights written out."""

import importlib

import pytest
import torch
from torch import nn

from worker.model.falcon import FalconLinear
from worker.model.layers.quantization import quantize_rows
from worker.model.layers.weight_only_linear import WeightOnlyLinear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ALIGNED, ODD = 64, 40  # columns that torch's kernel takes, and others


def make_linear(dtype: torch.dtype, columns: int = ALIGNED, *, bias: bool = False) -> FalconLinear:
    torch.manual_seed(0)
    return FalconLinear(columns, 48, bias=bias, dtype=dtype).requires_grad_(False)


def with_rounded_weights(linear: FalconLinear) -> FalconLinear:
    """Return the same layer with its weights rounded to 8 bits, in float32."""
    rounded, scale = quantize_rows(linear.weight, linear.weight.dtype)
    exact = FalconLinear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    exact.weight.data = rounded.float() * scale.float()
    if linear.bias is not None:
        exact.bias.data = linear.bias.float()
    return exact.requires_grad_(False)


@pytest.mark.parametrize("columns", [ALIGNED, ODD])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_that_of_the_quantized_weights(
    dtype: torch.dtype, columns: int, bias: bool
) -> None:
    linear = make_linear(dtype, columns, bias=bias)
    input = torch.randn(7, columns).to(dtype)
    output = WeightOnlyLinear(linear)(input)
    assert output.dtype is dtype
    few_bits = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    expected = with_rounded_weights(linear)(input.float())
    torch.testing.assert_close(output.float(), expected, rtol=few_bits, atol=few_bits)


@pytest.mark.parametrize("columns", [ALIGNED, ODD])
def test_the_product_is_rounded_before_the_bias_is_added(columns: int) -> None:
    linear = make_linear(torch.bfloat16, columns, bias=True)
    input = torch.randn(7, columns).bfloat16()
    with_bias = WeightOnlyLinear(linear)(input)
    linear.register_parameter("bias", None)
    product = WeightOnlyLinear(linear)(input)
    assert torch.equal(with_bias, product + make_linear(torch.bfloat16, columns, bias=True).bias)


@pytest.mark.parametrize("num_rows", [0, 1, 3, 4, 5, 33])
def test_a_row_does_not_depend_on_other_rows(num_rows: int) -> None:
    layer = WeightOnlyLinear(make_linear(torch.bfloat16))
    rows = torch.randn(num_rows, ALIGNED).bfloat16()
    alone = [layer(row[None]) for row in rows]
    assert torch.equal(layer(rows), torch.cat(alone) if alone else rows.new_empty(0, 48))


def test_an_input_may_be_a_part_of_a_wider_one() -> None:
    layer = WeightOnlyLinear(make_linear(torch.bfloat16))
    part = torch.randn(5, 2 * ALIGNED).bfloat16()[:, :ALIGNED]
    assert torch.equal(layer(part), layer(part.clone(memory_format=torch.contiguous_format)))


def test_nan_stays_in_its_row() -> None:
    layer = WeightOnlyLinear(make_linear(torch.bfloat16))
    output = layer(torch.stack([torch.full((64,), torch.nan), torch.ones(64)]).bfloat16())
    assert output[0].isnan().all()
    assert output[1].isfinite().all()


def test_float16_holds_what_large_inputs_add_up_to() -> None:
    linear = make_linear(torch.float16)
    linear.weight.data.fill_(1.0)
    output = WeightOnlyLinear(linear)(torch.full((1, ALIGNED), 100.0).half())
    assert output.tolist() == [[pytest.approx(6_400, rel=1e-3)] * 48]


def test_weights_take_a_byte_each() -> None:
    layer = WeightOnlyLinear(make_linear(torch.bfloat16))
    tensors = [value for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == 48 * ALIGNED + 48 * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantization_is_off_by_at_most_half_of_a_rounded_scale(dtype: torch.dtype) -> None:
    weight = torch.randn(10, 33) * torch.logspace(-2, 1, 10)[:, None]
    weight[4] = 0
    rounded, scale = quantize_rows(weight, dtype)
    assert scale.dtype is dtype
    error = (rounded * scale.float() - weight).abs()
    assert (error <= scale.float() * 0.501).all()
    assert not rounded[4].any()


def test_torchao_rounds_to_the_same_integers() -> None:
    pytest.importorskip("torchao")
    torchao = importlib.import_module("torchao.quantization")
    weight = nn.Linear(64, 48).weight.detach()
    rounded, scale = quantize_rows(weight)
    theirs = torchao.Int8Tensor.from_hp(weight, granularity=torchao.PerRow(), scale=scale)
    assert torch.equal(theirs.qdata, rounded)
    torch.testing.assert_close(theirs.dequantize(), rounded * scale, rtol=1e-6, atol=1e-8)


def test_quantization_loses_no_more_than_torchao() -> None:
    pytest.importorskip("torchao")
    torchao = importlib.import_module("torchao.quantization")
    weight = torch.randn(256, 512)
    rounded, scale = quantize_rows(weight)
    theirs = torchao.Int8Tensor.from_hp(weight, granularity=torchao.PerRow()).dequantize()
    ours_off, theirs_off = (rounded * scale - weight).norm(), (theirs - weight).norm()
    assert ours_off < 1.02 * theirs_off
