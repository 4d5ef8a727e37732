"""Time the dense layers of a step alone, on the engine's own backend: a lower bound of a step.

The dense layers are the head and query_key_value, dense, dense_h_to_4h and dense_4h_to_h of every
decoder layer. The bound has these matrix products and no other operation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from worker.engine import Engine
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.config import ModelConfig
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM

# Computes the layers on `num_tokens` rows and the head on `num_logit_rows`.
DenseLayers = Callable[[int, int], None]


def dense_layers(engine: Engine, *, threads: int) -> DenseLayers:
    """Return a function that computes the dense layers of the engine's model.

    On OpenVINO they have random weights, because a loaded engine keeps only packed weights.
    """
    if isinstance(engine.runner, ModelRunner):
        return torch_layers(engine.runner.model)
    forecast = engine.load_report.forecast
    assert forecast is not None
    return openvino_layers(engine.model_config, dtype=forecast.variant.dtype, threads=threads)


def torch_layers(model: FalconForCausalLM) -> DenseLayers:
    """Return a function that computes the dense layers with torch and the model's weights."""
    dtype = model.dtype

    @torch.inference_mode()
    def compute(num_tokens: int, num_logit_rows: int) -> None:
        hidden_states = torch.zeros(num_tokens, model.config.hidden_size, dtype=dtype)
        expanded = torch.zeros(num_tokens, model.config.ffn_hidden_size, dtype=dtype)
        for layer in decoder_layers(model):
            layer.self_attention.query_key_value(hidden_states)
            layer.self_attention.dense(hidden_states)
            layer.mlp.dense_h_to_4h(hidden_states)
            layer.mlp.dense_4h_to_h(expanded)
        model.lm_head(hidden_states[:num_logit_rows])

    return compute


def decoder_layers(model: FalconForCausalLM) -> list[FalconDecoderLayer]:
    return [layer for layer in model.transformer.h if isinstance(layer, FalconDecoderLayer)]


def openvino_layers(config: ModelConfig, *, dtype: torch.dtype, threads: int) -> DenseLayers:
    """Compile one graph of the dense layers with the properties that the runner uses."""
    import openvino as ov

    properties = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = ov.Core().compile_model(dense_graph(config), "CPU", properties)
    request = compiled.create_infer_request()

    def compute(num_tokens: int, num_logit_rows: int) -> None:
        for index, num_rows in enumerate((num_tokens, num_logit_rows)):
            rows = np.zeros((num_rows, config.hidden_size), dtype=np.float32)
            request.set_input_tensor(index, ov.Tensor(rows, shared_memory=True))
        request.infer(share_outputs=True)

    return compute


def dense_graph(config: ModelConfig) -> Any:
    """Return an `openvino.Model` of inputs [num_tokens, hidden] and [num_logit_rows, hidden].

    As in the runner's graph, layers whose outputs are added are one product. Each product depends
    on another one, so that the runtime cannot drop any.
    """
    import openvino as ov
    from openvino import opset13 as op

    draw = np.random.default_rng(0)

    def linear(rows: Any, num_in: int, num_out: int) -> Any:
        weight = op.constant(draw.random((num_out, num_in), dtype=np.float32) / num_in)
        return op.matmul(rows, weight, transpose_a=False, transpose_b=True)

    hidden_size, ffn = config.hidden_size, config.ffn_hidden_size
    heads_size = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    inputs = [op.parameter([-1, hidden_size], np.float32) for _ in range(2)]
    hidden, sampled = inputs
    for _ in range(config.num_layers):
        heads = linear(hidden, hidden_size, heads_size)
        context = op.slice(heads, [0], [hidden_size], [1], [1])
        expanded = linear(hidden, hidden_size, ffn)
        hidden = linear(op.concat([context, expanded], 1), hidden_size + ffn, hidden_size)
    return ov.Model([hidden, linear(sampled, hidden_size, config.vocab_size)], inputs)
