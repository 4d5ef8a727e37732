"""The oracle of 8-bit weights: transformers with the rounded weights written out; its callers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.worker.engine.company import Guest, play
from tests.worker.engine.oracle import load_judge, silence
from worker.engine import Engine, SamplingParams
from worker.model.layers.quantization import quantize_rows

GREEDY = SamplingParams(max_new_tokens=16)

# Rounds the weights of the two layers whose outputs a block adds up; the ways differ in which
# columns share a scale.
RoundSummed = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


def rounded(weight: torch.Tensor) -> torch.Tensor:
    integers, scale = quantize_rows(weight)
    return integers * scale


def each_alone(dense: torch.Tensor, dense_4h_to_h: torch.Tensor) -> Sequence[torch.Tensor]:
    return rounded(dense), rounded(dense_4h_to_h)


def both_as_one(dense: torch.Tensor, dense_4h_to_h: torch.Tensor) -> Sequence[torch.Tensor]:
    """In OpenVINO's graph they are one product."""
    widths = [dense.shape[1], dense_4h_to_h.shape[1]]
    return torch.split(rounded(torch.cat([dense, dense_4h_to_h], dim=1)), widths, dim=1)


def in_halves(dense: torch.Tensor, dense_4h_to_h: torch.Tensor) -> Sequence[torch.Tensor]:
    """Each of two processes rounds the columns that it holds."""
    return [
        torch.cat([rounded(half) for half in weight.chunk(2, dim=1)], dim=1)
        for weight in (dense, dense_4h_to_h)
    ]


def rounded_judge(path: Path, round_summed: RoundSummed = each_alone) -> Any:
    """transformers' model with its linear layers' weights rounded to 8 bits and written out."""
    silence()
    model = load_judge(path)[0]
    for layer in model.transformer.h:
        attention, mlp = layer.self_attention, layer.mlp
        for linear in (attention.query_key_value, mlp.dense_h_to_4h):
            linear.weight.data = rounded(linear.weight.data)
        summed = round_summed(attention.dense.weight.data, mlp.dense_4h_to_h.weight.data)
        attention.dense.weight.data, mlp.dense_4h_to_h.weight.data = summed
    return model


def guests(count: int, params: SamplingParams = GREEDY) -> list[Guest]:
    draw = Random(count)
    return [
        Guest(tuple(draw.randrange(20, 500) for _ in range(draw.randint(1, 60))), params)
        for _ in range(count)
    ]


def told(engine: Engine, company: list[Guest]) -> list[list[int]]:
    return [result.token_ids(0) for result in play(engine, company)]
