"""The Falcon network as one OpenVINO graph: computes what `FalconForCausalLM` does, on CPUs.

OpenVINO fuses the element-wise work into oneDNN matrix products and has an attention kernel that
reads paged keys and values.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from openvino.op import _PagedAttentionExtension
from torch.nn import LayerNorm, Linear

from worker.model.config import BlockStyle, ModelConfig
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM
from worker.model.layers.quantization import Quantization
from worker.model.openvino_weights import WeightFile
from worker.model.quantized_linears import ReadWeight, weight_bytes

BLOCK_SIZE = 32  # tokens; the CPU kernel supports no other

Node = Any  # openvino takes nodes and outputs interchangeably


def why_unsupported(config: ModelConfig) -> str | None:
    """Return why a model cannot run as such a graph; None if it can."""
    if config.alibi:
        return "alibi slopes are rounded to bfloat16, which its attention cannot do"
    if config.activation != "gelu":
        return f"activation {config.activation!r} is not supported by its graph"
    return None


def is_cache(input_name: str) -> bool:
    """Return whether a graph input holds the keys or values of a layer."""
    return input_name.startswith(("key_cache.", "value_cache."))


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """Where the weights to quantize come from, and where they go."""

    kind: Quantization
    read: ReadWeight
    file: WeightFile

    @classmethod
    def of(
        cls, model: FalconForCausalLM, kind: Quantization, read: ReadWeight
    ) -> "QuantizedWeights":
        """Reserve a file for the weights of `model`. Raises ValueError if the disk is too small."""
        return cls(kind, read, WeightFile(weight_bytes(model, model.dtype, kind).quantized))


def build_graph(model: FalconForCausalLM, quantized: QuantizedWeights | None) -> ov.Model:
    """Build a graph from packed tokens to logits; `model` is in float32 or bfloat16, on the CPU.

    Inputs, by name: `input_ids`, `positions`: int64 [num_tokens]; `sampled`: int64 [n], the rows
    that need logits; `past_lens` [num_seqs], `subsequence_begins` [num_seqs + 1], `block_indices`,
    `block_indices_begins` [num_seqs + 1] and `max_context_len` []: int32, as PagedAttention takes
    them; `key_cache.N` and `value_cache.N`: [num_blocks, num_kv_heads, 32, head_dim] in the model's
    dtype, written in place. Output: logits, float32 [n, vocab_size].

    The graph shares the memory of the model's weights, some of which it joins for that, and the
    file of the quantized weights. Of these it reads one product's at a time. The runtime's settings
    decide about the inputs of quantized layers.
    """
    return _GraphBuilder(model, quantized).build()


class _GraphBuilder:
    def __init__(self, model: FalconForCausalLM, quantized: QuantizedWeights | None) -> None:
        self._model = model
        self._config = model.config
        self._quantized = quantized
        self._type = ov.Type.bf16 if model.dtype == torch.bfloat16 else ov.Type.f32
        self._parameters: list[Node] = []
        self._input_ids = self._parameter("input_ids", [-1], np.int64)
        self._positions = self._parameter("positions", [-1], np.int64)
        self._sampled = self._parameter("sampled", [-1], np.int64)
        self._paging = [
            self._parameter("past_lens", [-1], np.int32),
            self._parameter("subsequence_begins", [-1], np.int32),
            self._parameter("block_indices", [-1], np.int32),
            self._parameter("block_indices_begins", [-1], np.int32),
        ]
        self._max_context_len = self._parameter("max_context_len", [], np.int32)

    def build(self) -> ov.Model:
        transformer = self._model.transformer
        embeddings = _shared(transformer.word_embeddings.weight)
        embedded = op.gather(embeddings, self._input_ids, _int64(0))
        hidden = op.convert(embedded, self._type)
        rotary = self._rotary()
        for index, layer in enumerate(transformer.h):
            assert isinstance(layer, FalconDecoderLayer)
            hidden = self._layer(hidden, index, layer, rotary)
        normed = _layer_norm(hidden, transformer.ln_f)
        logits = self._product(normed, self._head_weight(), None)
        return ov.Model([op.convert(logits, ov.Type.f32)], self._parameters)

    def _layer(
        self, residual: Node, index: int, layer: FalconDecoderLayer, rotary: tuple[Node, Node]
    ) -> Node:
        attention, mlp = layer.self_attention, layer.mlp
        match layer.block_style:
            case BlockStyle.PARALLEL:
                normed = _layer_norm(residual, layer.input_layernorm)
                fused = self._linear(normed, attention.query_key_value)
                expanded = self._linear(self._needed(normed, index), mlp.dense_h_to_4h)
            case BlockStyle.PARALLEL_TWO_NORMS:
                fused = self._linear(
                    _layer_norm(residual, layer.ln_attn), attention.query_key_value
                )
                normed = _layer_norm(self._needed(residual, index), layer.ln_mlp)
                expanded = self._linear(normed, mlp.dense_h_to_4h)
            case BlockStyle.SEQUENTIAL:
                return self._sequential_layer(residual, index, layer, rotary)
        context = self._needed(self._attention(fused, index, rotary), index)
        output = self._sum_of_linears(
            [(context, attention.dense), (op.gelu(expanded, "erf"), mlp.dense_4h_to_h)]
        )
        return op.add(self._needed(residual, index), output)

    def _needed(self, hidden: Node, index: int) -> Node:
        """Return the rows that the next layer reads; in the last layer, the sampled rows."""
        is_last = index == self._config.num_layers - 1
        return op.gather(hidden, self._sampled, _int64(0)) if is_last else hidden

    def _sequential_layer(
        self, residual: Node, index: int, layer: FalconDecoderLayer, rotary: tuple[Node, Node]
    ) -> Node:
        attention, mlp = layer.self_attention, layer.mlp
        normed = _layer_norm(residual, layer.input_layernorm)
        fused = self._linear(normed, attention.query_key_value)
        context = self._needed(self._attention(fused, index, rotary), index)
        residual = op.add(self._needed(residual, index), self._linear(context, attention.dense))
        normed = _layer_norm(residual, layer.post_attention_layernorm)
        expanded = op.gelu(self._linear(normed, mlp.dense_h_to_4h), "erf")
        return op.add(residual, self._linear(expanded, mlp.dense_4h_to_h))

    def _attention(self, fused: Node, index: int, rotary: tuple[Node, Node]) -> Node:
        group = self._config.num_heads_per_kv_head
        turned, value = self._split_heads(self._heads(fused), [group + 1, 1])
        query, key = self._split_heads(self._rotate(turned, rotary), [group, 1])
        return self._paged_attention(
            self._joined(query), self._joined(key), self._joined(value), index
        )

    def _heads(self, fused: Node) -> Node:
        """Reshape to [num_tokens, kv, heads, dim]: per KV head its query heads, key and value."""
        config = self._config
        shape = [0, config.num_kv_heads, config.num_heads_per_kv_head + 2, config.head_dim]
        return op.reshape(fused, _int64(shape), special_zero=True)

    def _split_heads(self, heads: Node, counts: list[int]) -> list[Node]:
        return list(op.variadic_split(heads, _int64(2), _int64(counts)).outputs())

    def _joined(self, heads: Node) -> Node:
        """Join the heads: [num_tokens, kv, heads, dim] → [num_tokens, kv * heads * dim]."""
        return op.reshape(heads, _int64([0, -1]), special_zero=True)

    def _rotary(self) -> tuple[Node, Node]:
        """Return cosines and sines, [num_tokens, 1, 1, head_dim], as `RotaryEmbedding` has them."""
        embedding = self._model.transformer.rotary_emb
        assert embedding is not None
        positions = op.unsqueeze(op.convert(self._positions, "f32"), _int64([1, 2, 3]))
        angles = op.multiply(positions, _shared(embedding.inv_freq))
        angles = op.concat([angles, angles], -1)
        scaling = op.constant(np.float32(embedding.attention_scaling))
        cosines, sines = (op.multiply(wave(angles), scaling) for wave in (op.cos, op.sin))
        return op.convert(cosines, self._type), op.convert(sines, self._type)

    def _rotate(self, heads: Node, rotary: tuple[Node, Node]) -> Node:
        """Rotate in the form that the runtime recognizes and replaces by one operator, RoPE."""
        half = self._config.head_dim // 2
        halves = op.variadic_split(heads, _int64(3), _int64([half, half]))
        minus_one = op.convert(op.constant(np.float32(-1)), self._type)
        negated = op.multiply(halves.output(1), minus_one)
        turned = op.concat([negated, halves.output(0)], -1)
        cosines, sines = rotary
        return op.add(op.multiply(heads, cosines), op.multiply(turned, sines))

    def _paged_attention(self, query: Node, key: Node, value: Node, layer: int) -> Node:
        config = self._config
        shape = [-1, config.num_kv_heads, BLOCK_SIZE, config.head_dim]
        caches = [
            self._parameter(f"{kind}_cache.{layer}", shape, self._type) for kind in ("key", "value")
        ]
        scale = op.constant(np.float32(config.head_dim**-0.5))
        sliding_window, alibi_slopes = op.constant(np.int32(0)), _none(np.float32)
        inputs = [query, key, value, *caches, *self._paging]
        inputs += [scale, sliding_window, alibi_slopes, self._max_context_len, *_unused_features()]
        attention = _PagedAttentionExtension([_output(node) for node in inputs])
        for name in ("k", "v"):
            attention.get_rt_info()[f"num_{name}_heads"] = config.num_kv_heads
            attention.get_rt_info()[f"{name}_head_size"] = config.head_dim
        return op.reshape(attention.output(0), _int64([0, config.hidden_size]), special_zero=True)

    def _linear(self, hidden: Node, linear: Linear) -> Node:
        bias = None if linear.bias is None else _shared(linear.bias)
        return self._product(hidden, self._weight([linear]), bias)

    def _sum_of_linears(self, terms: list[tuple[Node, Linear]]) -> Node:
        """Compute the sum of several layers as one product."""
        weight = self._weight([linear for _, linear in terms])
        biases = [_shared(linear.bias) for _, linear in terms if linear.bias is not None]
        bias = reduce(op.add, biases) if biases else None  # folded to one constant
        return self._product(op.concat([hidden for hidden, _ in terms], 1), weight, bias)

    def _product(self, hidden: Node, weight: Node, bias: Node | None) -> Node:
        product = op.matmul(hidden, weight, transpose_a=False, transpose_b=True)
        return product if bias is None else op.add(product, bias)

    def _weight(self, linears: list[Linear]) -> Node:
        """Return the weight of layers side by side."""
        if self._quantized is None:
            return _shared(_side_by_side(linears) if len(linears) > 1 else linears[0].weight)
        weights = [self._quantized.read(linear) for linear in linears]
        weight = torch.cat(weights, dim=1) if len(weights) > 1 else weights[0]
        weights.clear()
        is_int4 = self._quantized.kind is Quantization.INT4
        file = self._quantized.file
        return file.per_group(weight) if is_int4 else file.per_row(weight)

    def _head_weight(self) -> Node:
        head = self._model.lm_head
        if self._quantized is None or not self._quantized.kind.includes_head:
            return _shared(head.weight)
        return self._quantized.file.per_row(self._quantized.read(head))

    def _parameter(self, name: str, shape: list[int], dtype: type[np.generic] | ov.Type) -> Node:
        parameter = op.parameter(shape, dtype, name=name)
        parameter.output(0).set_names({name})
        self._parameters.append(parameter)
        return parameter


def _side_by_side(linears: list[Linear]) -> torch.Tensor:
    """Join the weights in one tensor; each layer keeps its columns as a view."""
    weight = torch.cat([linear.weight for linear in linears], dim=1)
    parts = torch.split(weight, [linear.in_features for linear in linears], dim=1)
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    return weight


def _layer_norm(hidden: Node, norm: LayerNorm) -> Node:
    normalized = op.mvn(hidden, _int64([-1]), True, norm.eps, "INSIDE_SQRT")
    return op.add(op.multiply(normalized, _shared(norm.weight)), _shared(norm.bias))


def _unused_features() -> list[Node]:
    """Return the inputs 13 to 27: windows, cache rotation and eviction, sinks, biases."""
    f32, i32, zero = np.float32, np.int32, op.constant(np.int32(0))
    return [
        _none(i32),  # score_aggregation_window
        *(_none(i32), _none(i32), _none(f32)),  # rotated_block_indices, _deltas, _trig_lut
        *(_none(f32), zero, zero),  # xattention_threshold, _block_size, _stride
        _none(f32),  # sinks
        *(zero, _none(i32), _none(i32), _none(i32)),  # adaptive_rkv_*
        _none(i32),  # token_type_ids
        *(_none(np.uint8), _none(i32)),  # qq_bias, qq_bias_begins
    ]


def _none(dtype: type[np.generic]) -> Node:
    """Return the constant that stands for an absent input."""
    return op.constant(np.zeros(0, dtype=dtype))


def _int64(values: int | list[int]) -> Node:
    return op.constant(np.array(values, dtype=np.int64))


def _shared(tensor: torch.Tensor) -> Node:
    """Return a constant in the memory of a tensor, which must outlive the graph."""
    if tensor.dtype != torch.bfloat16:
        return op.constant(tensor.detach().numpy(), shared_memory=True)
    bits = tensor.detach().view(torch.uint16).numpy()  # numpy has no bfloat16
    return ov.op.Constant(ov.Tensor(bits, ov.Shape(bits.shape), ov.Type.bf16), shared_memory=True)


def _output(node: Node) -> Node:
    return node if isinstance(node, ov.Output) else node.output(0)
