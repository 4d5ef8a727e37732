"""What the layers of fp8 compute, on any device: 8-bit rounding as theirs, products in float32.

Tells what fp8 changes where no GPU multiplies such floats. Slow and large: nothing is served so.
"""

import torch
from torch import nn
from torch.nn import functional

_FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MAX = torch.finfo(_FLOAT8).max
_TINY = 1e-12  # as in `Float8Linear`: a row of zeros would turn into nan


class EmulatedFloat8Linear(nn.Module):
    """`Float8Linear` without its kernel, which may add up in fewer bits than float32 has."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = round_rows(linear.weight.detach())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product = functional.linear(round_rows(input), self._weight).to(input.dtype)
        return product if self.bias is None else product + self.bias


def round_rows(values: torch.Tensor) -> torch.Tensor:
    """The values as e4m3 with a scale to each row has them, in float32.

    The scale is computed in the values' own dtype, since torchao does so.
    """
    scale = (values.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / _FLOAT8_MAX).float()
    rounded = (values.float() / scale).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(_FLOAT8)
    return rounded.float() * scale
