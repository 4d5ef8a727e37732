"""Triton kernels of attention for sequences with one query each, on the blocks of the KV cache.

Only `decode_attention` imports the module, because it needs Triton. The keys of a row are cut into
splits of a fixed size, as in flash-decoding (Dao et al. 2023). A row's result does not depend on
the other rows.
"""

import torch
import triton
import triton.language as tl

SPLIT_KEYS = tl.constexpr(256)
MIN_DIM = 16  # of a product on tensor cores
TILE_BYTES = 16_384  # of the keys in one product
COMBINED_HEADS = tl.constexpr(8)  # that one program of `combine_splits` computes
LOG2_E = tl.constexpr(1.4426950408889634)


def attend_decoding(
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
    """Attend as `DecodeKernel` documents it."""
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads, num_splits = keys.shape[1], triton.cdiv(max_context, SPLIT_KEYS.value)
    query = query.contiguous()
    output = torch.empty_like(query) if output is None else output
    parts = query.new_empty((num_rows, num_splits, num_heads, head_dim), dtype=torch.float32)
    sums = query.new_empty((num_rows, num_splits, num_heads), dtype=torch.float32)
    attend_splits[num_rows, num_kv_heads, num_splits](
        query,
        keys,
        values,
        block_tables,
        context_lens,
        bias,
        parts,
        sums,
        block_tables.stride(0),
        0 if bias is None else bias.stride(0),
        **constants(num_heads // num_kv_heads, head_dim, keys.dtype),
        BLOCK_SIZE=block_size,
    )
    grid = num_rows, triton.cdiv(num_heads, COMBINED_HEADS.value)
    combine_splits[grid](
        *(parts, sums, context_lens, output, num_splits, output.stride(0)),
        *(num_heads, head_dim, max(MIN_DIM, triton.next_power_of_2(head_dim))),
    )
    return output


def constants(group: int, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Return what `attend_splits` is compiled with for heads of a model, and its warps."""
    group_pad, dim_pad = (max(MIN_DIM, triton.next_power_of_2(n)) for n in (group, head_dim))
    return {
        "GROUP": group,
        "GROUP_PAD": group_pad,
        "HEAD_DIM": head_dim,
        "DIM_PAD": dim_pad,
        "TILE": min(64, TILE_BYTES // (dim_pad * dtype.itemsize)),
        "num_warps": 8 if group_pad > 16 else 4,
    }


# Triton compiles a kernel again when an integer becomes 1 or a multiple of 16; not for these.
@triton.jit(do_not_specialize=["table_width", "bias_width"])
def attend_splits(
    query: tl.tensor,  # [num_rows, num_heads, HEAD_DIM]
    keys: tl.tensor,  # [slots, num_kv_heads, HEAD_DIM], one layer of the cache
    values: tl.tensor,
    block_tables: tl.tensor,  # int64 [num_rows, table_width]
    context_lens: tl.tensor,  # int32 [num_rows]
    bias: tl.tensor,  # [num_heads, bias_width], by the position of the key; or None
    parts: tl.tensor,  # float32 [num_rows, num_splits, num_heads, HEAD_DIM]: contexts of splits
    sums: tl.tensor,  # float32 [num_rows, num_splits, num_heads]: log2 of their sums of weights
    table_width: tl.tensor,
    bias_width: tl.tensor,
    GROUP: tl.constexpr,  # query heads of a KV head
    GROUP_PAD: tl.constexpr,  # a power of 2, at least 16: rows of a tensor core's tile
    HEAD_DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,  # the same of its columns
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,  # keys in one product
) -> None:
    """Attend with the heads of one KV head to one split of the keys of one row."""
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    num_kv_heads, begin = tl.num_programs(1), split * SPLIT_KEYS
    end = tl.minimum(begin + SPLIT_KEYS, tl.load(context_lens + row))
    padded = tl.arange(0, GROUP_PAD)
    dims, is_head = tl.arange(0, DIM_PAD), padded < GROUP
    in_head = (dims < HEAD_DIM)[None, :]
    heads = kv_head * GROUP + tl.minimum(padded, GROUP - 1)  # padding repeats the last head
    rows = row * num_kv_heads * GROUP + heads
    q = tl.load(query + rows[:, None] * HEAD_DIM + dims[None, :], mask=in_head, other=0.0)
    if bias is not None:
        bias += heads[:, None] * bias_width
    keys, values = keys + kv_head * HEAD_DIM, values + kv_head * HEAD_DIM
    table, slot_size = block_tables + row * table_width, num_kv_heads * HEAD_DIM
    top, total, context = _attend_keys(
        q, keys, values, table, bias, begin, end, slot_size, HEAD_DIM, BLOCK_SIZE, TILE
    )
    if begin < end:
        outputs = (row * tl.num_programs(2) + split) * num_kv_heads * GROUP + heads
        tl.store(sums + outputs, top + tl.log2(total), mask=is_head)
        cells = parts + outputs[:, None] * HEAD_DIM + dims[None, :]
        tl.store(cells, context / total[:, None], mask=is_head[:, None] & in_head)


@triton.jit
def _attend_keys(
    q: tl.tensor,  # [GROUP_PAD, DIM_PAD]
    keys: tl.tensor,
    values: tl.tensor,
    table: tl.tensor,  # blocks of the row
    bias: tl.tensor,  # pointers [GROUP_PAD, 1], or None
    begin: tl.tensor,  # first position
    end: tl.tensor,
    slot_size: tl.tensor,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the highest score, the sum of weights relative to it, and the weighted values."""
    GROUP_PAD: tl.constexpr = q.shape[0]
    DIM_PAD: tl.constexpr = q.shape[1]
    top = tl.full((GROUP_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_PAD,), tl.float32)
    context = tl.zeros((GROUP_PAD, DIM_PAD), tl.float32)
    dims = tl.arange(0, DIM_PAD)
    in_head = dims < HEAD_DIM
    for first in range(begin, end, TILE):
        positions = first + tl.arange(0, TILE)
        exists = positions < end
        blocks = tl.load(table + positions // BLOCK_SIZE, mask=exists, other=0)
        slots = (blocks * BLOCK_SIZE + positions % BLOCK_SIZE) * slot_size
        is_key, is_value = exists[None, :] & in_head[:, None], exists[:, None] & in_head[None, :]
        k = tl.load(keys + slots[None, :] + dims[:, None], mask=is_key, other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * (LOG2_E * HEAD_DIM**-0.5)
        if bias is not None:
            biases = tl.load(bias + positions[None, :], mask=exists[None, :], other=0.0)
            scores += biases.to(tl.float32) * LOG2_E
        scores = tl.where(exists[None, :], scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        weights, kept = tl.exp2(scores - highest[:, None]), tl.exp2(top - highest)
        v = tl.load(values + slots[:, None] + dims[None, :], mask=is_value, other=0.0)
        total = total * kept + tl.sum(weights, 1)
        product = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        context, top = context * kept[:, None] + product, highest
    return top, total, context


@triton.jit(do_not_specialize=["num_splits"])
def combine_splits(
    parts: tl.tensor,
    sums: tl.tensor,
    context_lens: tl.tensor,
    output: tl.tensor,  # [num_rows, num_heads, HEAD_DIM], rows `stride` apart
    num_splits: tl.tensor,
    stride: tl.tensor,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
) -> None:
    """Add the splits of one row, one after the other; a row without keys gets zeros."""
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * COMBINED_HEADS + tl.arange(0, COMBINED_HEADS)
    dims = tl.arange(0, DIM_PAD)
    is_head = heads < NUM_HEADS
    is_cell = is_head[:, None] & (dims < HEAD_DIM)[None, :]
    top = tl.full((COMBINED_HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((COMBINED_HEADS,), tl.float32)
    context = tl.zeros((COMBINED_HEADS, DIM_PAD), tl.float32)
    for split in range(0, tl.cdiv(tl.load(context_lens + row), SPLIT_KEYS)):
        inputs = (row * num_splits + split) * NUM_HEADS + heads
        log_sum = tl.load(sums + inputs, mask=is_head, other=0.0)
        cells = parts + inputs[:, None] * HEAD_DIM + dims[None, :]
        part = tl.load(cells, mask=is_cell, other=0.0)
        highest = tl.maximum(top, log_sum)
        kept, weight = tl.exp2(top - highest), tl.exp2(log_sum - highest)
        total = total * kept + weight
        context = context * kept[:, None] + part * weight[:, None]
        top = highest
    context = context / tl.where(total > 0, total, 1.0)[:, None]
    cells = output + row * stride + heads[:, None] * HEAD_DIM + dims[None, :]
    tl.store(cells, context.to(output.dtype.element_ty), mask=is_cell)
