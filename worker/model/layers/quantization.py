"""Weights in 8 bits: the kinds there are, and rounding with one scale to each output row.

Opt-in: each kind changes results. Knows nothing of devices or of how products are computed.
"""

from enum import StrEnum

import torch

INT8_MAX = 127


class Quantization(StrEnum):
    """Of the linear layers; embeddings and norms stay as they are.

    INT8 takes the head as well. The others leave it: its errors go straight into the choice of a
    token, and of falcon-7b's weights it has a twentieth.
    """

    INT8 = "int8"  # symmetric; inputs are rounded too, on the fly
    INT8_WEIGHT_ONLY = "int8-weight-only"  # symmetric; inputs and sums keep the model's dtype
    FP8 = "fp8"  # e4m3; inputs are rounded too, on the fly


def quantize_rows(
    weight: torch.Tensor, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """float [rows, columns] → int8 [rows, columns] and scales [rows, 1] in `scale_dtype`.

    Rounds to the nearest; `int8 * scale` differs from `weight` by at most half a scale, also where
    the scale itself has been rounded to fewer bits. A row of zeros stays one.
    """
    scale = (weight.float().abs().amax(dim=1, keepdim=True) / INT8_MAX).to(scale_dtype)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded = (weight.float() / scale.float()).round().clamp(-INT8_MAX, INT8_MAX)
    return rounded.to(torch.int8), scale
