"""The kinds of 8-bit weights, and quantization with one scale per output row.

Opt-in: each kind changes results.
"""

from enum import StrEnum

import torch

INT8_MAX = 127


class Quantization(StrEnum):
    """The 8-bit format of linear layers; embeddings and norms keep their dtype.

    INT8 includes the head. The others do not: errors of the head change the sampled tokens most,
    and it is only a twentieth of falcon-7b's weights.
    """

    INT8 = "int8"  # symmetric; inputs are quantized on the fly
    INT8_WEIGHT_ONLY = "int8-weight-only"  # symmetric; inputs and sums keep the model's dtype
    FP8 = "fp8"  # e4m3; inputs are quantized on the fly


def quantize_rows(
    weight: torch.Tensor, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize [rows, columns] to int8 and scales [rows, 1] in `scale_dtype`.

    Rounds to nearest: `int8 * scale` differs from `weight` by at most half a scale, even if the
    scale itself is rounded to fewer bits. A row of zeros stays zero.
    """
    scale = (weight.float().abs().amax(dim=1, keepdim=True) / INT8_MAX).to(scale_dtype)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    quantized = (weight.float() / scale.float()).round().clamp(-INT8_MAX, INT8_MAX)
    return quantized.to(torch.int8), scale
