"""Weights in 4 bits: the integers of torchao, and the bounds of their error."""

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.model.layers.quantization import GROUP_SIZE, Uint4Groups, quantize_groups


def unpacked(groups: Uint4Groups) -> torch.Tensor:
    """Return the values, [rows, groups, 64]."""
    pairs = torch.stack([groups.values & 15, groups.values >> 4], dim=-1)
    return pairs.reshape(*groups.scales.shape, GROUP_SIZE)


def dequantized(weight: torch.Tensor) -> torch.Tensor:
    groups = quantize_groups(weight)
    centred = unpacked(groups).float() - groups.zero_points[..., None].float()
    return (centred * groups.scales[..., None]).reshape(weight.shape)


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5), num_groups=st.integers(1, 4))
def test_the_error_is_at_most_a_scale_and_zero_stays_zero(
    seed: int, rows: int, num_groups: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, num_groups * GROUP_SIZE, generator=generator)
    weight *= torch.logspace(-4, 3, rows)[:, None]
    weight += weight.std() * torch.randn(1, generator=generator)  # lopsided groups
    weight[:, ::7] = 0
    weight[0, :GROUP_SIZE] = 0
    error = (dequantized(weight) - weight).abs().reshape(rows, num_groups, GROUP_SIZE)
    assert (error <= quantize_groups(weight).scales[..., None] * 1.001).all()
    assert not dequantized(weight)[weight == 0].any()


def test_the_pieces_of_a_large_weight_join_up() -> None:
    weight = torch.randn(5000, 8 * GROUP_SIZE, dtype=torch.bfloat16)
    whole = dequantized(weight)
    assert torch.equal(whole[4100:4700], dequantized(weight[4100:4700]))


def test_torchao_chooses_the_same_scales_and_integers() -> None:
    pytest.importorskip("torchao")
    primitives: Any = importlib.import_module("torchao.quantization.quant_primitives")
    weight = torch.randn(48, 6 * GROUP_SIZE)
    block, bounds = (1, GROUP_SIZE), (0, 15)
    scales, zero_points = primitives.choose_qparams_affine(
        weight, primitives.MappingType.ASYMMETRIC, block, torch.uint8, *bounds
    )
    theirs = primitives.quantize_affine(weight, block, scales, zero_points, torch.uint8, *bounds)
    ours = quantize_groups(weight)
    torch.testing.assert_close(ours.scales, scales.reshape(48, 6))
    assert torch.equal(ours.zero_points, zero_points.reshape(48, 6).to(torch.uint8))
    assert torch.equal(unpacked(ours).reshape(weight.shape), theirs)
