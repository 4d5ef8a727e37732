"""Linear layers in the layouts that are fast on a CPU, against torch's own."""

import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from worker.model.layers.packed_linear import Int8Linear, PackedLinear, replace_linears
from worker.model.layers.quantization import quantize_rows


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def linear(request: pytest.FixtureRequest) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 48, bias=request.param).requires_grad_(False)


@pytest.mark.parametrize("num_rows", [0, 1, 7, 130])
def test_packed_weights_give_the_same_product(linear: nn.Linear, num_rows: int) -> None:
    input = torch.randn(num_rows, 64)
    torch.testing.assert_close(PackedLinear(linear)(input), linear(input), rtol=1e-5, atol=1e-5)


def test_8_bit_weights_come_close(linear: nn.Linear) -> None:
    input = torch.randn(30, 64)
    expected = linear(input)
    error = (Int8Linear(linear)(input) - expected).abs().mean()
    assert 0 < error < 0.03 * expected.std()


def test_8_bit_products_do_not_overflow_without_vnni() -> None:
    """The largest weights times the largest inputs, in the mode of an older CPU."""
    script = """
import torch
from torch import nn
from worker.model.layers.packed_linear import Int8Linear
linear = nn.Linear(256, 16, bias=False).requires_grad_(False)
linear.weight.fill_(0.5)
print(Int8Linear(linear)(torch.ones(3, 256)).unique().tolist())
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == pytest.approx([128.0])


def test_a_row_of_an_8_bit_layer_does_not_depend_on_other_rows(linear: nn.Linear) -> None:
    quantized = Int8Linear(linear)
    rows = torch.randn(5, 64) * torch.tensor([[1.0], [100.0], [1e-3], [0.0], [1.0]])
    together = quantized(rows)
    alone = torch.cat([quantized(row[None]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_nan_stays_in_its_row_of_an_8_bit_layer(linear: nn.Linear) -> None:
    output = Int8Linear(linear)(torch.stack([torch.full((64,), torch.nan), torch.ones(64)]))
    assert output[0].isnan().all()
    assert output[1].isfinite().all()


def test_quantization_is_off_by_at_most_half_a_scale() -> None:
    weight = torch.randn(10, 33)
    weight[4] = 0
    rounded, scale = quantize_rows(weight)
    assert rounded.dtype is torch.int8
    assert ((rounded * scale - weight).abs() <= scale / 2 + 1e-7).all()
    assert (rounded.abs().amax(dim=1)[[0, 9]] == 127).all()
    assert not rounded[4].any()


def test_replacing_reaches_every_linear_layer_of_a_model() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    replace_linears(model, PackedLinear)
    assert [type(module) for module in model.modules()].count(PackedLinear) == 2
    assert not any(isinstance(module, nn.Linear) for module in model.modules())


def test_each_weight_is_freed_before_the_next_layer_is_replaced() -> None:
    """Else loading would hold the model twice."""
    mlp = [nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3)]
    model = nn.Sequential(*mlp, nn.Linear(8, 4)).requires_grad_(False)
    del mlp
    weights: list[weakref.ref[torch.Tensor]] = []

    def replace(linear: nn.Linear) -> nn.Module:
        assert [weight() for weight in weights] == [None] * len(weights)
        weights.append(weakref.ref(linear.weight))
        return nn.Identity()

    replace_linears(model, replace)
    assert len(weights) == 7
