"""Linear layers with 8-bit weights and unquantized inputs: half the memory of 16-bit weights.

Inference only.
"""

from collections.abc import Callable

import torch
from torch import nn

from worker.model.layers.quantization import quantize_rows

# torch's kernel reads this many numbers at once, from aligned addresses.
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
    """Choose the product of input [n, columns] and 8-bit weights [rows, columns] with scales."""
    if _has_kernel(weight):
        return _packed
    return _scaled_first if weight.dtype == torch.float16 else _scaled_last


def _has_kernel(weight: torch.Tensor) -> bool:
    """Return whether torch has a fast kernel that does not first convert the weights to 16 bits.

    For other dtypes it has plain loops; on CUDA it uses one thread per sum.
    """
    is_aligned = weight.shape[1] % _KERNEL_MULTIPLE == 0
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and is_aligned


def _packed(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply in bfloat16 with float32 sums; their order does not depend on other rows."""
    product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(input, weight, scale)
    return product


def _scaled_last(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Convert the weights to the input's dtype in each call, as torchao does."""
    return (input @ weight.to(input.dtype).T) * scale


def _scaled_first(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale the weights first: float16 cannot hold sums of products with integers up to 127."""
    return input @ (weight.to(input.dtype) * scale[:, None]).T
