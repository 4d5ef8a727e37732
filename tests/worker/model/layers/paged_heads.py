"""Sequences on scattered blocks, for tests of attention kernels, and emulations of the kernels.

The emulations follow the kernels' documentation, one row at a time.
"""

import random

import torch

from worker.model.kv_cache import AttentionMetadata, KVCache

BLOCK_SIZE, HEAD_DIM, NUM_LAYERS = 4, 8, 2
CPU = torch.device("cpu")

Batch = list[tuple[int, int]]  # (context, new tokens) of each sequence


def make_cache(
    num_kv_heads: int,
    num_blocks: int,
    *,
    block_size: int = BLOCK_SIZE,
    head_dim: int = HEAD_DIM,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> KVCache:
    """Slots of earlier sequences hold nan, so that a read of them shows."""
    kv_cache = KVCache(
        num_layers=NUM_LAYERS,
        num_blocks=num_blocks,
        block_size=block_size,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
    )
    kv_cache.keys.fill_(torch.nan)
    kv_cache.values.fill_(torch.nan)
    return kv_cache


def lay_out(batch: Batch, kv_cache: KVCache) -> AttentionMetadata:
    """Blocks in random order; every sequence's earlier keys and values are in the cache."""
    block_size = kv_cache.block_size
    blocks = list(range(kv_cache.num_blocks))
    random.Random(0).shuffle(blocks)
    width = max(-(-context // block_size) for context, _ in batch)
    tables = torch.tensor([[blocks.pop() for _ in range(width)] for _ in batch])
    slots: list[int] = []
    cu_seqlens_q = [0]
    for (context, new), table in zip(batch, tables.tolist(), strict=True):
        of_sequence = [table[p // block_size] * block_size + p % block_size for p in range(context)]
        past = torch.tensor(of_sequence[: context - new], dtype=torch.int64)
        for pool in (kv_cache.keys, kv_cache.values):
            pool[:, past] = torch.randn(NUM_LAYERS, len(past), *pool.shape[2:]).to(pool.dtype)
        slots += of_sequence[context - new :]
        cu_seqlens_q.append(len(slots))
    return AttentionMetadata(
        cu_seqlens_q=cu_seqlens_q,
        context_lens=[context for context, _ in batch],
        slot_mapping=torch.tensor(slots),
        block_tables=tables,
    )


def copy_of(kv_cache: KVCache, device: torch.device, dtype: torch.dtype) -> KVCache:
    *_, num_kv_heads, head_dim = kv_cache.keys.shape
    other = make_cache(
        num_kv_heads, kv_cache.num_blocks, block_size=kv_cache.block_size, head_dim=head_dim
    )
    other.keys, other.values = (
        pool.to(device=device, dtype=dtype, copy=True) for pool in (kv_cache.keys, kv_cache.values)
    )
    return other


def draw_heads(num_tokens: int, num_heads: int, kv_cache: KVCache) -> list[torch.Tensor]:
    """Query, key and value."""
    *_, num_kv_heads, head_dim = kv_cache.keys.shape
    return [
        torch.randn(num_tokens, n, head_dim).to(kv_cache.keys)
        for n in (num_heads, num_kv_heads, num_kv_heads)
    ]


def emulated_varlen(
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
    """Emulate torch's `varlen_attn`."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    output = torch.full_like(query, torch.nan)
    for seq in range(len(cu_seq_q) - 1):
        keys, values = (packed[cu_seq_k[seq] : cu_seq_k[seq + 1]] for packed in (key, value))
        num_new = int(cu_seq_q[seq + 1] - cu_seq_q[seq])
        for i in range(num_new):
            # Aligned at the end: the last query and the last key stand at the same place.
            end = len(keys) if window_size[1] < 0 else len(keys) - num_new + i + 1 + window_size[1]
            row = int(cu_seq_q[seq]) + i
            output[row] = _attend(query[row], keys[:end], values[:end])
    return output


def emulated_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor | None = None,
    *,
    block_size: int,
    max_context: int,
) -> torch.Tensor:
    """Emulate a `DecodeKernel`."""
    assert (block_tables.dtype, context_lens.dtype) == (torch.int64, torch.int32)
    assert len(query) == len(block_tables) == len(context_lens)
    assert max_context >= int(context_lens.max())
    output = torch.empty_like(query) if output is None else output
    output.fill_(torch.nan)
    for row, context in enumerate(context_lens.tolist()):
        positions = torch.arange(context)
        slots = block_tables[row, positions // block_size] * block_size + positions % block_size
        output[row] = _attend(
            query[row], keys[slots], values[slots], None if bias is None else bias[:, :context]
        )
    return output


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    num_heads, head_dim = query.shape
    group = num_heads // keys.shape[1]
    keys, values = (heads.repeat_interleave(group, dim=1) for heads in (keys, values))
    scores = torch.einsum("hd,khd->hk", query, keys) / head_dim**0.5
    if bias is not None:
        scores = scores + bias
    return torch.einsum("hk,khd->hd", scores.softmax(dim=-1), values)
