"""The inputs of the GPU's kernel, compared with the plain reference by an emulation.

The emulation follows torch's documentation of `varlen_attn`, one sequence and query at a time.
"""

import random

import pytest
import torch

from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.attention import PagedAttention
from worker.model.layers.flash_attention import (
    FlashAttention,
    flash_kernel,
    kernel_serves,
    plan_attention,
)
from worker.model.layers.rotary import alibi_slopes

BLOCK_SIZE, HEAD_DIM, NUM_LAYERS = 4, 8, 2
HEADS = [(6, 1), (8, 2), (3, 3)]  # query and KV heads of the 7b, 40b and rw styles
CPU = torch.device("cpu")

# (context, new tokens) of each sequence: prompts whole and in chunks, decoding, all together.
BATCHES = [[(1, 1)], [(5, 1), (4, 1), (17, 1)], [(7, 7)], [(9, 4), (1, 1), (12, 12), (8, 1)]]


def emulated_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
) -> torch.Tensor:
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    output = torch.full_like(query, torch.nan)
    group = query.shape[1] // key.shape[1]
    for seq in range(len(cu_seq_q) - 1):
        keys, values = (
            packed[cu_seq_k[seq] : cu_seq_k[seq + 1]].repeat_interleave(group, dim=1)
            for packed in (key, value)
        )
        num_new = int(cu_seq_q[seq + 1] - cu_seq_q[seq])
        for i in range(num_new):
            # Aligned at the end: the last query and the last key stand at the same place.
            end = len(keys) if window_size[1] < 0 else len(keys) - num_new + i + 1 + window_size[1]
            row = int(cu_seq_q[seq]) + i
            scores = torch.einsum("hd,khd->hk", query[row], keys[:end]) / HEAD_DIM**0.5
            output[row] = torch.einsum("hk,khd->hd", scores.softmax(dim=-1), values[:end])
    return output


def make_cache(num_kv_heads: int, num_blocks: int, device: torch.device = CPU) -> KVCache:
    """Slots of earlier sequences hold nan, so that a read of them shows."""
    kv_cache = KVCache(
        num_layers=NUM_LAYERS,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        num_kv_heads=num_kv_heads,
        head_dim=HEAD_DIM,
        dtype=torch.float32,
        device=device,
    )
    kv_cache.keys.fill_(torch.nan)
    kv_cache.values.fill_(torch.nan)
    return kv_cache


def lay_out(batch: list[tuple[int, int]], kv_cache: KVCache) -> AttentionMetadata:
    """Blocks in random order; every sequence's earlier keys and values are in the cache."""
    blocks = list(range(kv_cache.num_blocks))
    random.Random(0).shuffle(blocks)
    width = max(-(-context // BLOCK_SIZE) for context, _ in batch)
    tables = torch.tensor([[blocks.pop() for _ in range(width)] for _ in batch])
    slots: list[int] = []
    cu_seqlens_q = [0]
    for (context, new), table in zip(batch, tables.tolist(), strict=True):
        of_sequence = [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(context)]
        past = torch.tensor(of_sequence[: context - new], dtype=torch.int64)
        for pool in (kv_cache.keys, kv_cache.values):
            pool[:, past] = torch.randn(NUM_LAYERS, len(past), *pool.shape[2:])
        slots += of_sequence[context - new :]
        cu_seqlens_q.append(len(slots))
    return AttentionMetadata(
        cu_seqlens_q=cu_seqlens_q,
        context_lens=[context for context, _ in batch],
        slot_mapping=torch.tensor(slots),
        block_tables=tables,
    )


def copy_of(kv_cache: KVCache, device: torch.device, dtype: torch.dtype) -> KVCache:
    other = make_cache(kv_cache.keys.shape[2], kv_cache.num_blocks, device)
    other.keys, other.values = (
        pool.to(device=device, dtype=dtype, copy=True) for pool in (kv_cache.keys, kv_cache.values)
    )
    return other


def draw_heads(num_tokens: int, num_heads: int, num_kv_heads: int) -> list[torch.Tensor]:
    """Query, key and value."""
    return [torch.randn(num_tokens, n, HEAD_DIM) for n in (num_heads, num_kv_heads, num_kv_heads)]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
def test_the_kernel_is_given_what_makes_it_equal_the_reference(
    batch: list[tuple[int, int]], num_heads: int, num_kv_heads: int
) -> None:
    torch.manual_seed(0)
    kv_cache = make_cache(num_kv_heads, num_blocks=30)
    metadata = lay_out(batch, kv_cache)
    other = copy_of(kv_cache, CPU, torch.float32)
    reference = PagedAttention.plan(kv_cache, metadata, None)
    flash = FlashAttention.plan(other, metadata, emulated_kernel)
    for layer in range(NUM_LAYERS):
        heads = draw_heads(metadata.cu_seqlens_q[-1], num_heads, num_kv_heads)
        torch.testing.assert_close(flash(layer, *heads), reference(layer, *heads))
    torch.testing.assert_close(other.keys, kv_cache.keys, equal_nan=True)


def test_the_kernel_takes_rotary_heads_in_half_precision_alone() -> None:
    assert kernel_serves(torch.bfloat16, 64, alibi=False)
    assert kernel_serves(torch.float16, 256, alibi=False)
    assert not kernel_serves(torch.float32, 64, alibi=False)
    assert not kernel_serves(torch.bfloat16, 64, alibi=True)
    assert not kernel_serves(torch.bfloat16, 60, alibi=False)
    assert not kernel_serves(torch.bfloat16, 264, alibi=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_computes_by_the_reference(dtype: torch.dtype) -> None:
    kv_cache = make_cache(1, num_blocks=30)
    metadata = lay_out([(5, 2)], kv_cache)
    kv_cache = copy_of(kv_cache, CPU, dtype)
    assert isinstance(plan_attention(kv_cache, metadata, None), PagedAttention)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
def test_on_a_gpu_the_kernel_agrees_with_the_reference(
    batch: list[tuple[int, int]], num_heads: int, num_kv_heads: int
) -> None:
    torch.manual_seed(0)
    gpu = torch.device("cuda")
    kv_cache = make_cache(num_kv_heads, num_blocks=30)
    metadata = lay_out(batch, kv_cache)
    kv_cache = copy_of(kv_cache, gpu, torch.bfloat16)
    other = copy_of(kv_cache, gpu, torch.bfloat16)
    metadata.slot_mapping, metadata.block_tables = (
        metadata.slot_mapping.to(gpu),
        metadata.block_tables.to(gpu),
    )
    reference = PagedAttention.plan(kv_cache, metadata, None)
    flash = FlashAttention.plan(other, metadata, flash_kernel())
    heads = [
        x.to(gpu, torch.bfloat16)
        for x in draw_heads(metadata.cu_seqlens_q[-1], num_heads, num_kv_heads)
    ]
    torch.testing.assert_close(flash(0, *heads), reference(0, *heads), atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_alibi_stays_with_the_reference() -> None:
    gpu = torch.device("cuda")
    kv_cache = make_cache(8, num_blocks=30)
    metadata = lay_out([(5, 2)], kv_cache)
    kv_cache = copy_of(kv_cache, gpu, torch.bfloat16)
    metadata.slot_mapping, metadata.block_tables = (
        metadata.slot_mapping.to(gpu),
        metadata.block_tables.to(gpu),
    )
    slopes = alibi_slopes(8).to(gpu)
    assert isinstance(plan_attention(kv_cache, metadata, slopes), PagedAttention)
    assert isinstance(plan_attention(kv_cache, metadata, None), FlashAttention)
