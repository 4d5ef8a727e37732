"""Which layers of a network get 8-bit weights, what computes them, and how small it becomes."""

from collections.abc import Callable

import torch
from torch import nn

from worker.model.falcon import FalconForCausalLM
from worker.model.layers.packed_linear import Int8Linear, replace_linears
from worker.model.layers.quantization import Quantization
from worker.model.layers.weight_only_linear import WeightOnlyLinear

_FLOAT32_BYTES = 4  # of a scale, where it does not have the model's dtype


def round_linears(
    model: FalconForCausalLM, quantization: Quantization, device: torch.device
) -> None:
    """Swap layers for ones with 8-bit weights on `device`, in place and one at a time.

    Raises ValueError for sizes that cannot be had, ImportError where fp8's package is missing.
    """
    kind = _layer_kind(quantization)
    replace_linears(_rounded_part(model, quantization), lambda linear: kind(linear.to(device)))


def drop_rounded_weights(model: FalconForCausalLM, quantization: Quantization) -> None:
    """Let go of whole weights that a runtime has rounded copies of: no layer computes any more."""
    for module in _rounded_part(model, quantization).modules():
        if isinstance(module, nn.Linear):
            module.register_parameter("weight", None)


def saved_bytes(
    model: FalconForCausalLM, dtype: torch.dtype, quantization: Quantization | None
) -> int:
    """Bytes that a network in `dtype`, which may lie on the meta device, loses by rounding.

    A head that is rounded no longer shares the memory of the embeddings it is tied to.
    """
    if quantization is None:
        return 0
    saved = 0
    weight_only = quantization is Quantization.INT8_WEIGHT_ONLY
    scale_bytes = dtype.itemsize if weight_only else _FLOAT32_BYTES
    for module in _rounded_part(model, quantization).modules():
        if isinstance(module, nn.Linear):
            saved -= module.weight.numel() + module.out_features * scale_bytes
            if module is not model.lm_head or not model.config.tie_word_embeddings:
                saved += module.weight.numel() * dtype.itemsize
    return saved


def _rounded_part(model: FalconForCausalLM, quantization: Quantization) -> nn.Module:
    return model if quantization is Quantization.INT8 else model.transformer


def _layer_kind(quantization: Quantization) -> Callable[[nn.Linear], nn.Module]:
    match quantization:
        case Quantization.INT8:
            return Int8Linear
        case Quantization.INT8_WEIGHT_ONLY:
            return WeightOnlyLinear
        case Quantization.FP8:
            from worker.model.layers.float8_linear import Float8Linear

            return Float8Linear
