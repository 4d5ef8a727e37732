"""Linear layers with 8-bit weights and unquantized inputs: half the memory of 16-bit weights.

Inference only.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from worker.model.device_map import current_device
from worker.model.layers.quantization import quantize_rows

logger = logging.getLogger(__name__)

# torch's kernel reads this many numbers at once, from aligned addresses.
_KERNEL_MULTIPLE = 16
_HALF_PRECISION = (torch.float16, torch.bfloat16)
_TOLERANCE = 2e-2  # of bfloat16


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
    if weight.device.type == "cuda" and weight.dtype in _HALF_PRECISION:
        product = triton_product(weight.device, weight.dtype)
        if product is not None:
            return product
    return _plain_product(weight.dtype)


def _plain_product(dtype: torch.dtype) -> Product:
    return _scaled_first if dtype == torch.float16 else _scaled_last


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


@cache
def triton_product(device: torch.device, dtype: torch.dtype) -> Product | None:
    """Return the product by a Triton kernel, compared with a plain one on this device.

    None, with a warning in the log, where it cannot be used: no failure of a compiler may keep a
    model from being served.
    """
    try:
        from worker.model.layers.int8_kernels import MAX_ROWS, multiply_int8

        error = _largest_error(multiply_int8, device, dtype)
    except Exception as failure:  # of an import, a compiler, a driver
        _warn(" ".join(f"{type(failure).__name__}: {failure}".split()))
        return None
    if not error <= _TOLERANCE:  # also nan
        _warn(f"its result is wrong by {error}")
        return None

    plain = _plain_product(dtype)

    def multiply(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if len(input) > MAX_ROWS:
            return plain(input, weight, scale)
        with current_device(device):  # Triton launches kernels on the current GPU
            return multiply_int8(input, weight, scale)

    return multiply


@torch.inference_mode()
def _largest_error(product: Product, device: torch.device, dtype: torch.dtype) -> float:
    """Return the largest difference to the plain product, of results around 1."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(3, 320, generator=generator)
    weight = torch.randint(-127, 128, (48, 320), generator=generator, dtype=torch.int8)
    scale = torch.rand(48, generator=generator) / 1000
    own = input.to(device, dtype), weight.to(device), scale.to(device, dtype)
    with current_device(device):
        expected, actual = _plain_product(dtype)(*own), product(*own)
    return (actual.float() - expected.float()).abs().max().item()


def _warn(reason: str) -> None:
    logger.warning(
        "int8-weight-only without a Triton kernel, slower than unquantized weights: %s; "
        "fp8 is faster",
        reason,
    )
