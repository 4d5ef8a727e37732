"""Fused layers equal the plain layers, whose weights they share; with kernels of plain torch."""

import random
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.worker.model.packed import generate_greedily, prefill
from worker.model.checkpoint.weights import load_model
from worker.model.config import BlockStyle
from worker.model.device_map import DeviceMap
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM
from worker.model.fused.fusing import fuse
from worker.model.fused.interface import PlainKernels
from worker.model.fused.layer import FusedLayer, FusedNetwork, LayerAttention
from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.attention import PagedAttention
from worker.model.layers.packed_linear import replace_linears
from worker.model.layers.weight_only_linear import WeightOnlyLinear
from worker.model.lora import AdapterTokens, LowRank, ServedAdapter
from worker.model.tensor_parallel import TensorParallel

CPU = torch.device("cpu")
STYLES = ("7b", "40b", "11b", "rw")
PROMPT = [(7 * i) % 500 for i in range(37)]
Checkpoint = Callable[[str], Path]


def load(path: Path, dtype: torch.dtype, parallel: TensorParallel) -> FalconForCausalLM:
    return load_model(str(path), dtype=dtype, device=CPU, parallel=parallel)


def layers_of(model: FalconForCausalLM) -> list[FalconDecoderLayer]:
    return [layer for layer in model.transformer.h if isinstance(layer, FalconDecoderLayer)]


def fuse_all(model: FalconForCausalLM) -> list[FusedLayer]:
    fused = [fuse(layer, PlainKernels()) for layer in layers_of(model)]
    model.transformer.fused = FusedNetwork(fused)
    return fused


def load_both(path: Path, dtype: torch.dtype) -> tuple[FalconForCausalLM, FalconForCausalLM]:
    """Return a plain network and a fused one."""
    plain, fused = (load(path, dtype, TensorParallel()) for _ in range(2))
    assert len(fuse_all(fused)) == plain.config.num_layers
    return plain, fused


@pytest.mark.parametrize("style", STYLES)
def test_fused_layers_give_the_logits_and_tokens_of_plain_layers(
    checkpoint: Checkpoint, style: str
) -> None:
    plain, fused = load_both(checkpoint(style), torch.float32)
    torch.testing.assert_close(prefill(fused, PROMPT), prefill(plain, PROMPT), atol=1e-5, rtol=0)
    prompts = [PROMPT[:n] for n in (1, 5, 20)]
    expected = generate_greedily(plain, prompts, 6, random.Random(0))
    assert generate_greedily(fused, prompts, 6, random.Random(0)) == expected


@pytest.mark.parametrize("style", STYLES)
def test_fused_layers_are_as_exact_in_bfloat16(checkpoint: Checkpoint, style: str) -> None:
    exact = prefill(load(checkpoint(style), torch.float32, TensorParallel()), PROMPT)
    plain, fused = load_both(checkpoint(style), torch.bfloat16)
    errors = [(prefill(model, PROMPT) - exact).std() for model in (plain, fused)]
    assert errors[1] <= 1.1 * errors[0]


@pytest.mark.parametrize("style", STYLES)
def test_merged_weights_take_the_place_of_their_parts(checkpoint: Checkpoint, style: str) -> None:
    plain, fused = load_both(checkpoint(style), torch.float32)
    assert num_bytes(fused) == num_bytes(plain)
    theirs = fused.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in plain.state_dict().items())


def num_bytes(model: FalconForCausalLM) -> int:
    """Return the memory of all weights; shared memory counts once."""
    tensors: list[torch.Tensor] = [*model.parameters()]
    if isinstance(model.transformer.fused, FusedNetwork):
        for layer in model.transformer.fused.layers:
            tensors += [t for t in (layer.merged_in, layer.merged_out) if t is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_a_layer_frees_its_parts_before_the_next_is_merged(checkpoint: Checkpoint) -> None:
    model = load(checkpoint("7b"), torch.float32, TensorParallel())
    for layer in layers_of(model):
        linears = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
        parts = [weakref.ref(linear.weight) for linear in linears]
        fused = fuse(layer, PlainKernels())
        assert fused.merged_in is not None
        assert [part() for part in parts] == [None] * 4


@pytest.mark.parametrize(
    ("style", "merges_in", "merges_out"),
    [("7b", True, True), ("11b", True, True), ("40b", False, True), ("rw", False, False)],
)
def test_products_of_one_input_and_of_one_sum_are_merged(
    checkpoint: Checkpoint, style: str, merges_in: bool, merges_out: bool
) -> None:
    for layer in fuse_all(load(checkpoint(style), torch.float32, TensorParallel())):
        assert (layer.merged_in is not None, layer.merged_out is not None) == (
            merges_in,
            merges_out,
        )


@pytest.mark.parametrize("style", STYLES)
def test_quantized_weights_stay_apart_in_fused_layers(checkpoint: Checkpoint, style: str) -> None:
    logits = []
    for is_fused in (False, True):
        model = load(checkpoint(style), torch.bfloat16, TensorParallel())
        replace_linears(model.transformer, WeightOnlyLinear)
        if is_fused:
            assert all(layer.merged_out is None for layer in fuse_all(model))
        logits.append(prefill(model, PROMPT))
    assert torch.equal(*logits)


@pytest.mark.parametrize("style", STYLES)
def test_a_step_with_an_adapter_runs_the_plain_layers(checkpoint: Checkpoint, style: str) -> None:
    torch.manual_seed(0)
    plain, fused = load_both(checkpoint(style), torch.float32)
    adapter = {
        f"transformer.h.1.{name}": LowRank(
            torch.randn(2, linear.in_features), torch.randn(linear.out_features, 2)
        )
        for name, linear in layers_of(plain)[1].named_modules()
        if isinstance(linear, torch.nn.Linear)
    }
    served = ServedAdapter(adapter, plain.config.num_layers, torch.float32, DeviceMap(CPU))
    results = [
        run(model, AdapterTokens([(served, torch.tensor([1, 4]))])) for model in (plain, fused)
    ]
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(results[0], run(plain, AdapterTokens()), atol=1e-2)


def run(model: FalconForCausalLM, adapters: AdapterTokens) -> torch.Tensor:
    kv_cache, metadata = a_prompt(model)
    with torch.inference_mode():
        return model(
            torch.tensor(PROMPT), torch.arange(len(PROMPT)), [kv_cache], metadata, adapters
        )


def a_prompt(model: FalconForCausalLM) -> tuple[KVCache, AttentionMetadata]:
    """Return an empty cache of one block, and the metadata of `PROMPT` in it."""
    kv_cache = KVCache(
        num_layers=model.config.num_layers,
        num_blocks=1,
        block_size=len(PROMPT),
        num_kv_heads=model.num_kv_heads,
        head_dim=model.config.head_dim,
        dtype=model.dtype,
        device=CPU,
    )
    slots = torch.arange(len(PROMPT))
    tables = torch.zeros(1, 1, dtype=torch.int64)
    return kv_cache, AttentionMetadata([0, len(PROMPT)], [len(PROMPT)], slots, tables)


def test_the_parts_of_a_split_layer_add_up_to_the_layer(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda partial: None)
    whole = first_output(load(checkpoint("40b"), torch.float32, TensorParallel()))
    parts = [
        first_output(load(checkpoint("40b"), torch.float32, TensorParallel(rank, 2)))
        for rank in range(2)
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def first_output(model: FalconForCausalLM) -> torch.Tensor:
    """Return what the first layer, or a rank's part of it, adds to the residual."""
    torch.manual_seed(0)
    kv_cache, metadata = a_prompt(model)
    attention = PagedAttention.plan(kv_cache, metadata, None)
    rotary_emb = model.transformer.rotary_emb
    assert rotary_emb is not None
    rotary = rotary_emb(torch.arange(len(PROMPT)), torch.float32)
    residual = torch.randn(len(PROMPT), model.config.hidden_size)
    _, update = fuse_all(model)[0](residual, None, LayerAttention(attention, rotary, 0))
    assert update.bias is None
    return update.values


def test_a_process_of_a_split_network_adds_its_bias_before_the_sum(checkpoint: Checkpoint) -> None:
    for parallel, adds_late in ((TensorParallel(), True), (TensorParallel(0, 2), False)):
        for layer in fuse_all(load(checkpoint("rw"), torch.float32, parallel)):
            assert layer.style is BlockStyle.SEQUENTIAL
            biases = layer.dense.bias, layer.dense_4h_to_h.bias
            assert all((bias is not None) == adds_late for bias in biases)
