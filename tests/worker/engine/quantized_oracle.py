"""The oracle of 8-bit weights: transformers with the quantized weights written out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.worker.engine.oracle import load_oracle, silence
from tests.worker.engine.workload import ScheduledRequest, run_all
from worker.engine import Engine, SamplingParams
from worker.model.layers.quantization import quantize_rows

GREEDY = SamplingParams(max_new_tokens=16)

# Quantizes the weights of the two layers that end a block; the functions differ in the columns that
# share a scale.
QuantizeSummed = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


def quantized(weight: torch.Tensor) -> torch.Tensor:
    integers, scale = quantize_rows(weight)
    return integers * scale


def quantize_separately(dense: torch.Tensor, dense_4h_to_h: torch.Tensor) -> Sequence[torch.Tensor]:
    return quantized(dense), quantized(dense_4h_to_h)


def quantize_jointly(dense: torch.Tensor, dense_4h_to_h: torch.Tensor) -> Sequence[torch.Tensor]:
    """Quantize both as one product, as OpenVINO's graph has them."""
    widths = [dense.shape[1], dense_4h_to_h.shape[1]]
    return torch.split(quantized(torch.cat([dense, dense_4h_to_h], dim=1)), widths, dim=1)


def quantize_halves(dense: torch.Tensor, dense_4h_to_h: torch.Tensor) -> Sequence[torch.Tensor]:
    """Quantize each half of the columns alone, as two ranks do."""
    return [
        torch.cat([quantized(half) for half in weight.chunk(2, dim=1)], dim=1)
        for weight in (dense, dense_4h_to_h)
    ]


def quantized_oracle(path: Path, quantize_summed: QuantizeSummed = quantize_separately) -> Any:
    """Return transformers' model with the weights of its linear layers quantized to 8 bits."""
    silence()
    model = load_oracle(path)[0]
    for layer in model.transformer.h:
        attention, mlp = layer.self_attention, layer.mlp
        for linear in (attention.query_key_value, mlp.dense_h_to_4h):
            linear.weight.data = quantized(linear.weight.data)
        summed = quantize_summed(attention.dense.weight.data, mlp.dense_4h_to_h.weight.data)
        attention.dense.weight.data, mlp.dense_4h_to_h.weight.data = summed
    return model


def scheduled_requests(count: int, params: SamplingParams = GREEDY) -> list[ScheduledRequest]:
    draw = Random(count)
    return [
        ScheduledRequest(tuple(draw.randrange(20, 500) for _ in range(draw.randint(1, 60))), params)
        for _ in range(count)
    ]


def generate_all(engine: Engine, workload: list[ScheduledRequest]) -> list[list[int]]:
    return [result.token_ids(0) for result in run_all(engine, workload)]
