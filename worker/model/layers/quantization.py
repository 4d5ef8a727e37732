"""The kinds of quantized weights: 8 bits with a scale per output row, 4 bits with one per group.

Opt-in: each kind changes results.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch

INT8_MAX = 127
GROUP_SIZE = 64  # columns that share a scale: falcon-7b's 4,544 are no multiple of 128
UINT4_MAX = 15
# Weights are quantized so many at a time: the temporary copies in float32 stay below 40 MiB.
_PIECE = 2**21


class Quantization(StrEnum):
    """The format of linear layers; norms keep their dtype.

    INT8 and INT4 include the head, in 8 bits, so they need the embeddings only in the checkpoint's
    dtype. The others do not: errors of the head change the sampled tokens most, and it is only a
    twentieth of falcon-7b's weights.
    """

    INT8 = "int8"  # symmetric; inputs are quantized on the fly
    INT8_WEIGHT_ONLY = "int8-weight-only"  # symmetric; inputs and sums keep the model's dtype
    FP8 = "fp8"  # e4m3; inputs are quantized on the fly
    INT4 = "int4"  # by groups of columns, the head as in INT8; inputs are quantized on the fly

    @property
    def includes_head(self) -> bool:
        return self in (Quantization.INT8, Quantization.INT4)


def quantize_rows(
    weight: torch.Tensor, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize [rows, columns] to int8 and scales [rows, 1] in `scale_dtype`.

    Rounds to nearest: `int8 * scale` differs from `weight` by at most half a scale, even if the
    scale itself is rounded to fewer bits. A row of zeros stays zero.
    """
    device = weight.device
    integers = torch.empty(weight.shape, dtype=torch.int8, device=device)
    scales = torch.empty(len(weight), 1, dtype=scale_dtype, device=device)
    for rows in _pieces(weight):
        piece = weight[rows].float()
        scale = (piece.abs().amax(dim=1, keepdim=True) / INT8_MAX).to(scale_dtype)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        integers[rows] = (piece / scale.float()).round_().clamp_(-INT8_MAX, INT8_MAX)
        scales[rows] = scale
    return integers, scales


@dataclass(frozen=True, slots=True)
class Uint4Groups:
    """A weight [rows, columns] as `(value - zero_point) * scale`, in groups of columns."""

    values: torch.Tensor  # uint8 [rows, columns / 2]: of two values, the first has the low bits
    zero_points: torch.Tensor  # uint8 [rows, groups]
    scales: torch.Tensor  # float32 [rows, groups]


def quantize_groups(weight: torch.Tensor) -> Uint4Groups:
    """Quantize [rows, columns] to 4 bits with a scale and a zero point per group of 64 columns.

    The 16 values span the least and the greatest weight of a group, and zero, which stays zero.
    Others differ by at most a scale, because the zero point is rounded too. `columns` must be a
    multiple of 64.
    """
    num_rows, num_columns = weight.shape
    num_groups = num_columns // GROUP_SIZE
    values = torch.empty(num_rows, num_columns // 2, dtype=torch.uint8)
    zero_points = torch.empty(num_rows, num_groups, dtype=torch.uint8)
    scales = torch.empty(num_rows, num_groups)
    for rows in _pieces(weight):
        piece = weight[rows].float().view(-1, num_groups, GROUP_SIZE)
        low = piece.amin(dim=2, keepdim=True).clamp_(max=0)
        high = piece.amax(dim=2, keepdim=True).clamp_(min=0)
        scale = (high - low) / UINT4_MAX
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero_point = (-low / scale).round_()
        groups = (piece / scale).round_().add_(zero_point).clamp_(0, UINT4_MAX)
        pairs = groups.to(torch.uint8).view(len(piece), -1, 2)
        values[rows] = pairs[..., 0] | pairs[..., 1] << 4
        zero_points[rows], scales[rows] = zero_point[..., 0], scale[..., 0]
    return Uint4Groups(values, zero_points, scales)


def _pieces(weight: torch.Tensor) -> Iterator[slice]:
    """Yield slices of rows that together are about `_PIECE` numbers."""
    height = max(1, _PIECE // max(1, weight.shape[1]))
    for start in range(0, len(weight), height):
        yield slice(start, start + height)
