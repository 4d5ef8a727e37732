"""Fuse the decoder layers of a loaded network: choose the kernels, merge weights.

A merged weight replaces its parts, and the plain layers get views of it. So a step may run the
plain layers at any time.
"""

from enum import StrEnum

import torch
from torch import nn

from worker.model.config import BlockStyle
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM, FalconLinear
from worker.model.fused.choice import LayerShape, layer_kernels
from worker.model.fused.interface import LayerKernels, Norm
from worker.model.fused.layer import FusedLayer, FusedNetwork, Product

_GELU = "gelu"  # the activation of the kernel


class DecoderLayers(StrEnum):
    """The operations of decoder layers on a GPU."""

    FUSED = "fused"  # by Triton, with merged products, where that applies
    SEPARATE = "separate"  # plain torch, one by one, with the weights of the checkpoint


def fuse_layers(model: FalconForCausalLM, wanted: DecoderLayers) -> None:
    """Fuse the layers of a network on GPUs, in place. Call it when weights are on their devices.

    The memory of one more layer is needed while its weights are merged.
    """
    layers = [layer for layer in model.transformer.h if isinstance(layer, FalconDecoderLayer)]
    if wanted is DecoderLayers.SEPARATE or model.config.activation != _GELU:
        return
    if any(device.type != "cuda" for device in model.layer_devices):
        return
    fused = []
    for layer in layers:
        kernels = layer_kernels(_shape(layer, model))
        if kernels is None:
            return
        fused.append(fuse(layer, kernels))
        # torch would keep the memory of the parts, which has not the size of the next whole.
        torch.cuda.empty_cache()
    model.transformer.fused = FusedNetwork(fused)


def fuse(layer: FalconDecoderLayer, kernels: LayerKernels) -> FusedLayer:
    """Merge the weights of a layer, in place; return the layer that computes with them."""
    attention, mlp = layer.self_attention, layer.mlp
    heads_width, context_width = attention.widths()
    # Before the products, which take the merged weights.
    merged_in = _merge_in(layer)
    merged_out = _merge_out(layer)
    is_whole = layer.parallel.size == 1
    return FusedLayer(
        style=layer.block_style,
        kernels=kernels,
        norms=[Norm(norm.weight, norm.bias, norm.eps) for norm in layer.norms()],
        query_key_value=_product(attention.query_key_value),
        dense_h_to_4h=_product(mlp.dense_h_to_4h),
        dense=_product(attention.dense, adds_late=is_whole),
        dense_4h_to_h=_product(mlp.dense_4h_to_h, adds_late=is_whole),
        heads_width=heads_width,
        context_width=context_width,
        wide_width=mlp.width,
        merged_in=merged_in,
        merged_out=merged_out,
        sum=layer.parallel.sum,
    )


def _merge_in(layer: FalconDecoderLayer) -> torch.Tensor | None:
    """Merge the products of one input, which a layer with one norm has."""
    parts = layer.self_attention.query_key_value, layer.mlp.dense_h_to_4h
    if layer.block_style is not BlockStyle.PARALLEL or not _are_plain(*parts):
        return None
    return _merge(*parts, dim=0)


def _merge_out(layer: FalconDecoderLayer) -> torch.Tensor | None:
    """Merge the products that are added up, unless a bias comes between product and sum."""
    parts = layer.self_attention.dense, layer.mlp.dense_4h_to_h
    has_bias = any(part.bias is not None for part in parts)
    if layer.block_style is BlockStyle.SEQUENTIAL or has_bias or not _are_plain(*parts):
        return None
    return _merge(*parts, dim=1)


def _are_plain(*linears: nn.Module) -> bool:
    """Return whether linear layers have weights of the network's dtype, not quantized."""
    return all(isinstance(linear, FalconLinear) for linear in linears)


@torch.no_grad()
def _merge(first: FalconLinear, second: FalconLinear, *, dim: int) -> torch.Tensor:
    """Return both weights as one tensor, and make them views of it."""
    merged = torch.cat([first.weight, second.weight], dim)
    sizes = [linear.weight.shape[dim] for linear in (first, second)]
    for linear, part in zip((first, second), torch.split(merged, sizes, dim), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    return merged


def _product(linear: nn.Module, *, adds_late: bool = True) -> Product:
    """Return the product of a linear layer, without its bias if a kernel adds it.

    Each process of a split network adds its own bias before the sum over processes.
    """
    if isinstance(linear, FalconLinear) and adds_late:
        return Product(linear.multiply, linear.bias)
    return Product(linear)


def _shape(layer: FalconDecoderLayer, model: FalconForCausalLM) -> LayerShape:
    config, weight = model.config, layer.norms()[0].weight
    return LayerShape(
        device=weight.device,
        dtype=weight.dtype,
        hidden_size=config.hidden_size,
        ffn_size=layer.mlp.width,
        num_kv_heads=model.num_kv_heads,
        group=config.num_heads_per_kv_head,
        head_dim=config.head_dim,
        num_norms=2 if layer.block_style is BlockStyle.PARALLEL_TWO_NORMS else 1,
        rotary=not config.alibi,
        bias=config.bias,
        eps=config.layer_norm_epsilon,
    )
