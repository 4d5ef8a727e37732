"""Replace the linear layers of a network by quantized layers; compute the saved bytes."""

from collections.abc import Callable

import torch
from torch import nn

from worker.model.falcon import FalconForCausalLM
from worker.model.layers.packed_linear import Int8Linear, replace_linears
from worker.model.layers.quantization import Quantization
from worker.model.layers.weight_only_linear import WeightOnlyLinear

_FLOAT32_BYTES = 4  # of a scale, unless it has the model's dtype


def quantize_linears(
    model: FalconForCausalLM, quantization: Quantization, device: torch.device
) -> None:
    """Replace linear layers by quantized layers on `device`, in place and one at a time.

    Raises ValueError for unsupported sizes, ImportError if the package for fp8 is missing.
    """
    kind = _layer_kind(quantization)
    replace_linears(_quantized_part(model, quantization), lambda linear: kind(linear.to(device)))


def drop_quantized_weights(model: FalconForCausalLM, quantization: Quantization) -> None:
    """Drop weights of which a runtime has quantized copies: the layers cannot compute any more."""
    for module in _quantized_part(model, quantization).modules():
        if isinstance(module, nn.Linear):
            module.register_parameter("weight", None)


def saved_bytes(
    model: FalconForCausalLM, dtype: torch.dtype, quantization: Quantization | None
) -> int:
    """Return the bytes that quantization saves in a network in `dtype`; meta devices will do.

    A quantized head no longer shares the memory of the embeddings it is tied to.
    """
    if quantization is None:
        return 0
    saved = 0
    weight_only = quantization is Quantization.INT8_WEIGHT_ONLY
    scale_bytes = dtype.itemsize if weight_only else _FLOAT32_BYTES
    for module in _quantized_part(model, quantization).modules():
        if isinstance(module, nn.Linear):
            saved -= module.weight.numel() + module.out_features * scale_bytes
            if module is not model.lm_head or not model.config.tie_word_embeddings:
                saved += module.weight.numel() * dtype.itemsize
    return saved


def _quantized_part(model: FalconForCausalLM, quantization: Quantization) -> nn.Module:
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
