"""Replace the linear layers of a network by quantized layers; compute the bytes of its weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from worker.model.falcon import FalconForCausalLM
from worker.model.layers.packed_linear import Int8Linear, replace_linears
from worker.model.layers.quantization import GROUP_SIZE, Quantization
from worker.model.layers.weight_only_linear import WeightOnlyLinear

_FLOAT32_BYTES = 4  # of a scale, unless it has the model's dtype
ReadWeight = Callable[[nn.Linear], torch.Tensor]


def quantize_linears(
    model: FalconForCausalLM, quantization: Quantization, device: torch.device, read: ReadWeight
) -> None:
    """Replace linear layers by quantized layers on `device`, in place and one at a time.

    `read` returns the weight of a layer, which is on the meta device in the model. Raises
    ValueError for unsupported sizes, ImportError if the package for fp8 is missing.
    """
    kind = _layer_kind(quantization)

    def quantize(linear: nn.Linear) -> nn.Module:
        linear.weight = nn.Parameter(read(linear), requires_grad=False)
        layer = kind(linear.to(device))
        linear.register_parameter("weight", None)  # `read` may know the layer for longer
        return layer

    replace_linears(_quantized_part(model, quantization), quantize)


def quantized_weights(model: FalconForCausalLM, quantization: Quantization | None) -> list[str]:
    """Return the names of the weights to quantize."""
    if quantization is None:
        return []
    modules = {module: name for name, module in model.named_modules()}
    part = _quantized_part(model, quantization).modules()
    return [f"{modules[module]}.weight" for module in part if isinstance(module, nn.Linear)]


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """The bytes of a network's weights."""

    plain: int
    quantized: int  # with their scales

    @property
    def total(self) -> int:
        return self.plain + self.quantized


def weight_bytes(
    model: FalconForCausalLM,
    dtype: torch.dtype,
    quantization: Quantization | None,
    embeddings_dtype: torch.dtype | None = None,
) -> WeightBytes:
    """Compute the bytes of a network's weights in `dtype`; meta devices will do.

    A quantized head does not share the memory of the embeddings it is tied to. With such a head the
    embeddings may have a dtype of their own.
    """
    names, plain, quantized = quantized_weights(model, quantization), 0, 0
    embeddings, head = model.transformer.word_embeddings.weight, model.lm_head.weight
    is_tied = head.is_meta and model.config.tie_word_embeddings
    for name, weight in model.named_parameters():  # a head that is tied in memory comes once
        if quantization and name in names:
            kind = Quantization.INT8 if weight is head else quantization
            quantized += quantized_bytes(weight, dtype, kind)
        elif weight is embeddings and embeddings_dtype:
            plain += weight.numel() * embeddings_dtype.itemsize
        elif weight is not head or not is_tied:
            plain += weight.numel() * dtype.itemsize
    return WeightBytes(plain, quantized)


def quantized_bytes(weight: torch.Tensor, dtype: torch.dtype, quantization: Quantization) -> int:
    """Return the bytes that a weight takes with its scales; `dtype` is that of the network."""
    match quantization:
        case Quantization.INT4:
            num_groups = weight.numel() // GROUP_SIZE  # each with a scale, and a zero point's byte
            return weight.numel() // 2 + num_groups * (_FLOAT32_BYTES + 1)
        case Quantization.INT8_WEIGHT_ONLY:
            return weight.numel() + len(weight) * dtype.itemsize
        case _:
            return weight.numel() + len(weight) * _FLOAT32_BYTES


def _quantized_part(model: FalconForCausalLM, quantization: Quantization) -> nn.Module:
    return model if quantization.includes_head else model.transformer


def _layer_kind(quantization: Quantization) -> Callable[[nn.Linear], nn.Module]:
    match quantization:
        case Quantization.INT8:
            return Int8Linear
        case Quantization.INT8_WEIGHT_ONLY:
            return WeightOnlyLinear
        case Quantization.FP8:
            from worker.model.layers.float8_linear import Float8Linear

            return Float8Linear
        case Quantization.INT4:
            raise ValueError("quantization int4 needs executor openvino")
