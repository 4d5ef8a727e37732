"""Linear layers with 8-bit weights and inputs as they are: half the memory of 16-bit weights.

Knows nothing of which layers a model gives them. Inference only.
"""

from collections.abc import Callable

import torch
from torch import nn

from worker.model.layers.quantization import quantize_rows

# torch's kernel reads so many numbers at once, from aligned addresses.
_KERNEL_MULTIPLE = 16


class WeightOnlyLinear(nn.Module):
    """`input @ (weight * scale).T + bias`, the product rounded before the bias is added.

    The scales have the weight's dtype.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        weight = linear.weight.detach()
        self._weight, scale = quantize_rows(weight, weight.dtype)
        self._scale = scale[:, 0].contiguous()
        self._product = _choose_product(weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product = self._product(input, self._weight, self._scale)
        return product if self.bias is None else product + self.bias


Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _choose_product(weight: torch.Tensor) -> Product:
    """What multiplies input [n, columns] by 8-bit weights [rows, columns] with scales [rows]."""
    if _has_kernel(weight):
        return _packed
    return _scaled_first if weight.dtype == torch.float16 else _scaled_last


def _has_kernel(weight: torch.Tensor) -> bool:
    """Whether torch multiplies by 8-bit weights without writing them out in 16 bits first.

    It does for other dtypes too, but in plain loops, and on CUDA a thread to each sum.
    """
    is_aligned = weight.shape[1] % _KERNEL_MULTIPLE == 0
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and is_aligned


def _packed(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """In bfloat16; sums in float32, each row's in the same order whatever rows there are."""
    product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(input, weight, scale)
    return product


def _scaled_last(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """As torchao has it: the weights are written out in the input's dtype in each call."""
    return (input @ weight.to(input.dtype).T) * scale


def _scaled_first(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """For float16, which could not hold sums of products with integers up to 127."""
    return input @ (weight.to(input.dtype) * scale[:, None]).T
