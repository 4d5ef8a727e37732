"""Weights read one at a time equal the loaded network's, merged adapters included."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worker.peft_adapters import write_adapter
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.checkpoint.adapter_weights import read_adapter
from worker.model.checkpoint.linear_weights import LinearWeights
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_weights, plan_loading
from worker.model.device_map import DeviceMap
from worker.model.falcon import UNSPLIT, FalconForCausalLM
from worker.model.layers.quantization import Quantization
from worker.model.lora import LoraAdapter, merge_adapters
from worker.model.quantized_linears import quantized_weights
from worker.model.tensor_parallel import TensorParallel

CPU = DeviceMap(torch.device("cpu"))


def read_one_at_a_time(
    folder: Path,
    quantization: Quantization,
    *,
    parallel: TensorParallel = UNSPLIT,
    adapters: list[LoraAdapter] | None = None,
    dtype: torch.dtype = torch.float32,
) -> FalconForCausalLM:
    plan = plan_loading(folder)
    unread = quantized_weights(plan.model, quantization)
    model = load_weights(plan, dtype=dtype, device_map=CPU, parallel=parallel, unread=unread)
    assert [name for name, weight in model.named_parameters() if weight.is_meta] == unread
    weights = LinearWeights(plan, model, dtype=dtype, parallel=parallel)
    weights.merge(adapters or [])
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.is_meta:
            module.weight = nn.Parameter(weights.read(module), requires_grad=False)
    return model


def assert_same(model: FalconForCausalLM, expected: FalconForCausalLM) -> None:
    tensors = model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensors[name].to(tensor.dtype), tensor), name


@pytest.mark.parametrize("quantization", Quantization)
@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_every_weight_is_read(
    like: str, quantization: Quantization, checkpoint: Callable[[str], Path]
) -> None:
    folder = checkpoint(like)
    assert_same(
        read_one_at_a_time(folder, quantization), load_weights(plan_loading(folder), device_map=CPU)
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_reads_its_part(rank: int, checkpoint: Callable[[str], Path]) -> None:
    folder, parallel = checkpoint("40b"), TensorParallel(rank, 2)
    assert_same(
        read_one_at_a_time(folder, Quantization.INT8, parallel=parallel),
        load_weights(plan_loading(folder), device_map=CPU, parallel=parallel),
    )


def test_adapters_are_merged_into_each_weight(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint("40b")
    expected = load_weights(plan_loading(folder), device_map=CPU)
    adapters = [
        read_adapter(
            AdapterFolder(write_adapter(tmp_path / str(seed), folder, seed=seed)), expected
        )
        for seed in (1, 2)
    ]
    merge_adapters(expected, adapters)
    assert_same(read_one_at_a_time(folder, Quantization.INT8, adapters=adapters), expected)


@pytest.mark.parametrize(
    ("quantization", "stored", "kept"),
    [
        (Quantization.INT8, torch.bfloat16, torch.bfloat16),
        (Quantization.INT4, torch.bfloat16, torch.bfloat16),
        (Quantization.INT8, torch.float16, torch.float32),
        (Quantization.INT8_WEIGHT_ONLY, torch.bfloat16, torch.float32),  # the head shares them
    ],
)
def test_embeddings_stay_in_bfloat16_without_a_head_that_shares_them(
    quantization: Quantization, stored: torch.dtype, kept: torch.dtype, tmp_path: Path
) -> None:
    model = read_one_at_a_time(write_random_checkpoint(tmp_path, dtype=stored), quantization)
    assert model.transformer.word_embeddings.weight.dtype is kept
    assert model.dtype is torch.float32
