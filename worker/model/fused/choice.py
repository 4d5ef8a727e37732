"""Choose the kernels of fused layers: Triton kernels, if they are right on this device."""

import logging
from dataclasses import dataclass
from functools import cache

import torch

from worker.model.device_map import current_device
from worker.model.fused.interface import LayerKernels, Norm, PlainKernels, Update

logger = logging.getLogger(__name__)

_MAX_HIDDEN_SIZE = 16_384  # above it, a program that holds a row spills registers
_TOLERANCE = 2e-2  # of bfloat16, for numbers around 1
_NUM_TOKENS = 3  # in the comparison with the reference


@dataclass(frozen=True, slots=True)
class LayerShape:
    """All that the kernels are compiled for."""

    device: torch.device
    dtype: torch.dtype
    hidden_size: int
    ffn_size: int
    num_kv_heads: int
    group: int  # query heads of a KV head
    head_dim: int
    num_norms: int  # of one residual
    rotary: bool
    bias: bool
    eps: float

    @property
    def fits(self) -> bool:
        """Return whether the kernels compile for it without spilled registers."""
        return self.hidden_size <= _MAX_HIDDEN_SIZE and self.head_dim % 2 == 0


@cache
def layer_kernels(shape: LayerShape) -> LayerKernels | None:
    """Return the kernels, compiled for a shape and compared with the reference.

    None, with a warning in the log, where they cannot be used: as for `decode_kernel`.
    """
    if not shape.fits:
        _warn(f"no kernel for hidden size {shape.hidden_size} and heads of size {shape.head_dim}")
        return None
    try:
        from worker.model.fused import kernels

        error = largest_error(shape, kernels)
    except Exception as failure:  # of an import, a compiler, a driver
        _warn(" ".join(f"{type(failure).__name__}: {failure}".split()))
        return None
    if not error <= _TOLERANCE:  # also nan
        _warn(f"a result is wrong by {error}")
        return None
    logger.info("decoder layers: fused Triton kernels, error %.1e", error)
    return kernels


@torch.inference_mode()
def largest_error(shape: LayerShape, kernels: LayerKernels) -> float:
    """Return the largest difference to the reference among all results of the kernels."""
    with current_device(shape.device):
        expected, actual = _results(shape, PlainKernels()), _results(shape, kernels)
    differences = [
        (own.float() - other.float()).abs().max()
        for own, other in zip(expected, actual, strict=True)
    ]
    return torch.stack(differences).max().item()


def _results(shape: LayerShape, kernels: LayerKernels) -> list[torch.Tensor]:
    """Return what the kernels compute of random numbers, the same in each call.

    As in a merged product, one tensor holds heads and wide rows. Slots without a key hold zero.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> torch.Tensor:
        numbers = torch.randn(*sizes, generator=generator)
        return numbers.to(shape.device, shape.dtype)

    hidden, ffn, head_dim = shape.hidden_size, shape.ffn_size, shape.head_dim
    heads_width = shape.num_kv_heads * (shape.group + 2) * head_dim
    residual, update = draw(_NUM_TOKENS, hidden), draw(_NUM_TOKENS, hidden)
    norms = [Norm(draw(hidden), draw(hidden), shape.eps) for _ in range(shape.num_norms)]
    fused, wide = torch.split(draw(_NUM_TOKENS, heads_width + ffn), [heads_width, ffn], dim=1)
    update_bias, heads_bias, wide_bias = (
        draw(size) if shape.bias else None for size in (hidden, heads_width, ffn)
    )
    half = draw(2, _NUM_TOKENS, 1, head_dim // 2)
    cosines, sines = torch.cat([half, half], dim=-1).unbind()
    keys, values = (
        torch.zeros(_NUM_TOKENS + 1, shape.num_kv_heads, head_dim).to(update) for _ in range(2)
    )
    slots = torch.arange(_NUM_TOKENS).to(shape.device) + 1
    output = torch.zeros(_NUM_TOKENS, ffn).to(update)

    first, normed = kernels.add_and_normalize(residual, None, norms[:1])
    total, both = kernels.add_and_normalize(residual, Update(update, update_bias), norms)
    rotary = (cosines, sines) if shape.rotary else None
    query = kernels.place_heads(fused, heads_bias, rotary, slots, keys, values)
    kernels.activate(wide, wide_bias, output)
    return [first, *normed, total, *both, query, keys, values, output]


def _warn(reason: str) -> None:
    logger.warning("decoder layers without fused kernels, slower: %s", reason)
