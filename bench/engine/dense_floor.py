"""Time the dense layers of a step alone, on the engine's own backend: a lower bound of a step.

The dense layers are the head and query_key_value, dense, dense_h_to_4h and dense_4h_to_h of every
decoder layer. The bound has these matrix products and no other operation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from worker.engine.execution.torch_runner import ModelRunner, Runner
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM

# Computes the layers on `num_tokens` rows and the head on `num_logit_rows`.
DenseLayers = Callable[[int, int], None]


def dense_layers(runner: Runner, *, threads: int) -> DenseLayers:
    """Return a function that computes the dense layers of the runner's model with its weights."""
    if isinstance(runner, ModelRunner):
        return torch_layers(runner.model)
    from worker.engine.execution.openvino_runner import OpenVinoRunner

    assert isinstance(runner, OpenVinoRunner), "unknown kind of runner"
    return openvino_layers(runner.model, threads=threads)


def torch_layers(model: FalconForCausalLM) -> DenseLayers:
    """Return a function that computes the dense layers with torch."""

    @torch.inference_mode()
    def compute(num_tokens: int, num_logit_rows: int) -> None:
        hidden_states = torch.zeros(num_tokens, model.config.hidden_size)
        expanded = torch.zeros(num_tokens, model.config.ffn_hidden_size)
        for layer in decoder_layers(model):
            layer.self_attention.query_key_value(hidden_states)
            layer.self_attention.dense(hidden_states)
            layer.mlp.dense_h_to_4h(hidden_states)
            layer.mlp.dense_4h_to_h(expanded)
        model.lm_head(hidden_states[:num_logit_rows])

    return compute


def openvino_layers(model: FalconForCausalLM, *, threads: int) -> DenseLayers:
    """Compile one graph of the dense layers with the properties that the runner uses."""
    import openvino as ov

    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = ov.Core().compile_model(dense_graph(model), "CPU", properties)
    request = compiled.create_infer_request()

    def compute(num_tokens: int, num_logit_rows: int) -> None:
        for index, num_rows in enumerate((num_tokens, num_logit_rows)):
            rows = torch.zeros(num_rows, model.config.hidden_size).numpy()
            request.set_input_tensor(index, ov.Tensor(rows, shared_memory=True))
        request.infer(share_outputs=True)

    return compute


def dense_graph(model: FalconForCausalLM) -> Any:
    """Return an `openvino.Model` of inputs [num_tokens, hidden] and [num_logit_rows, hidden].

    As in the runner's graph, layers whose outputs are added are one product. Each product depends
    on another one, so that the runtime cannot drop any.
    """
    import openvino as ov
    from openvino import opset13 as op

    def linear(rows: Any, *weights: torch.Tensor) -> Any:
        weight = op.constant(torch.cat(weights, dim=1).detach().numpy())
        return op.matmul(rows, weight, transpose_a=False, transpose_b=True)

    config = model.config
    inputs = [op.parameter([-1, config.hidden_size], np.float32) for _ in range(2)]
    hidden, sampled = inputs
    for layer in decoder_layers(model):
        attention, mlp = layer.self_attention, layer.mlp
        heads = linear(hidden, attention.query_key_value.weight)
        context = op.slice(heads, [0], [config.hidden_size], [1], [1])
        expanded = linear(hidden, mlp.dense_h_to_4h.weight)
        hidden = linear(
            op.concat([context, expanded], 1), attention.dense.weight, mlp.dense_4h_to_h.weight
        )
    return ov.Model([hidden, linear(sampled, model.lm_head.weight)], inputs)


def decoder_layers(model: FalconForCausalLM) -> list[FalconDecoderLayer]:
    return [layer for layer in model.transformer.h if isinstance(layer, FalconDecoderLayer)]
