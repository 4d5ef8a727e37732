"""Triton kernels of a decoder layer: residual with norms, heads into place, activation.

Only `choice` imports the module, because it needs Triton. A token's result does not depend on the
other tokens. The kernels round as the separate operations do.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from worker.model.fused.interface import Norm, Rotary, Update

WIDTH_OF_A_WARP = 1024
PLACED_HEADS = tl.constexpr(8)  # that one program of `place_heads_of_token` writes
ACTIVATED = tl.constexpr(1024)  # numbers that one program of `activate_columns` computes
SQRT_HALF = tl.constexpr(0.7071067811865476)


def add_and_normalize(
    residual: torch.Tensor, update: Update | None, norms: Sequence[Norm]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Add and normalize as `LayerKernels` documents it."""
    num_tokens, width = residual.shape
    total = residual if update is None else torch.empty_like(residual)
    normed = [torch.empty_like(residual) for _ in norms]
    first, *rest = norms
    other = rest[0] if rest else None
    normalize_rows[num_tokens,](
        residual,
        None if update is None else update.values,
        None if update is None else update.bias,
        total,
        first.weight,
        first.bias,
        normed[0],
        None if other is None else other.weight,
        None if other is None else other.bias,
        normed[1] if rest else None,
        **norm_constants(width, first.eps),
    )
    return total, normed


def norm_constants(width: int, eps: float) -> dict[str, float]:
    """Return what `normalize_rows` is compiled with for rows of a width, and its warps."""
    width_pad = triton.next_power_of_2(width)
    num_warps = min(16, max(4, width_pad // WIDTH_OF_A_WARP))
    return {"WIDTH": width, "WIDTH_PAD": width_pad, "EPS": eps, "num_warps": num_warps}


@triton.jit
def normalize_rows(
    residual: tl.tensor,  # [num_tokens, WIDTH], as all tensors of tokens
    update: tl.tensor,  # or None: nothing is added
    update_bias: tl.tensor,  # [WIDTH], or None
    total: tl.tensor,
    weight: tl.tensor,  # [WIDTH]
    bias: tl.tensor,
    normed: tl.tensor,
    other_weight: tl.tensor,  # or None: one norm
    other_bias: tl.tensor,
    other_normed: tl.tensor,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    EPS: tl.constexpr,
) -> None:
    """Add to one row; normalize the sum by one norm, or by two."""
    dtype: tl.constexpr = residual.dtype.element_ty
    columns = tl.arange(0, WIDTH_PAD)
    exists = columns < WIDTH
    cells = tl.program_id(0).to(tl.int64) * WIDTH + columns
    x = tl.load(residual + cells, mask=exists, other=0.0).to(tl.float32)
    if update is not None:
        added = tl.load(update + cells, mask=exists, other=0.0).to(tl.float32)
        if update_bias is not None:
            added += tl.load(update_bias + columns, mask=exists, other=0.0).to(tl.float32)
            added = added.to(dtype).to(tl.float32)
        x = (x + added).to(dtype).to(tl.float32)
        tl.store(total + cells, x.to(dtype), mask=exists)
    centered = tl.where(exists, x - tl.sum(x, 0) / WIDTH, 0.0)
    scaled = centered * tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
    own = _scale(scaled, weight, bias, columns, exists)
    tl.store(normed + cells, own.to(dtype), mask=exists)
    if other_weight is not None:
        own = _scale(scaled, other_weight, other_bias, columns, exists)
        tl.store(other_normed + cells, own.to(dtype), mask=exists)


@triton.jit
def _scale(
    scaled: tl.tensor, weight: tl.tensor, bias: tl.tensor, columns: tl.tensor, exists: tl.tensor
) -> tl.tensor:
    factor = tl.load(weight + columns, mask=exists, other=0.0).to(tl.float32)
    return scaled * factor + tl.load(bias + columns, mask=exists, other=0.0).to(tl.float32)


def place_heads(
    fused: torch.Tensor,
    bias: torch.Tensor | None,
    rotary: Rotary | None,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Place heads as `LayerKernels` documents it."""
    num_tokens, width = fused.shape
    _, num_kv_heads, head_dim = keys.shape
    group = width // (num_kv_heads * head_dim) - 2
    query = fused.new_empty((num_tokens, num_kv_heads * group, head_dim))
    cosines, sines = (None, None) if rotary is None else rotary
    constants = head_constants(group, num_kv_heads, head_dim)
    grid = num_tokens, triton.cdiv(num_kv_heads * (group + 2), PLACED_HEADS.value)
    place_heads_of_token[grid](
        *(fused, bias, cosines, sines, slots, query, keys, values, fused.stride(0)), **constants
    )
    return query


def head_constants(group: int, num_kv_heads: int, head_dim: int) -> dict[str, int]:
    """Return what `place_heads_of_token` is compiled with for heads of a model, and its warps."""
    return {
        "GROUP": group,
        "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim,
        "HALF_PAD": triton.next_power_of_2(head_dim // 2),
        "num_warps": 2,
    }


@triton.jit
def place_heads_of_token(
    fused: tl.tensor,  # [num_tokens, NUM_KV_HEADS * (GROUP + 2) * HEAD_DIM], rows `stride` apart
    bias: tl.tensor,  # or None
    cosines: tl.tensor,  # [num_tokens, HEAD_DIM], or None; both halves are equal
    sines: tl.tensor,
    slots: tl.tensor,  # int64 [num_tokens]
    query: tl.tensor,  # [num_tokens, NUM_KV_HEADS * GROUP, HEAD_DIM]
    keys: tl.tensor,  # [slots, NUM_KV_HEADS, HEAD_DIM]
    values: tl.tensor,
    stride: tl.tensor,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF_PAD: tl.constexpr,
) -> None:
    """Rotate some heads of one token; write queries to `query`, keys and values to their slot."""
    HALF: tl.constexpr = HEAD_DIM // 2
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * PLACED_HEADS + tl.arange(0, PLACED_HEADS)
    kv_heads, places = heads // (GROUP + 2), heads % (GROUP + 2)
    dims = tl.arange(0, HALF_PAD)[None, :]  # of the first half
    exists = (heads[:, None] < NUM_KV_HEADS * (GROUP + 2)) & (dims < HALF)
    cells = heads[:, None] * HEAD_DIM + dims
    first = tl.load(fused + token * stride + cells, mask=exists, other=0.0)
    second = tl.load(fused + token * stride + cells + HALF, mask=exists, other=0.0)
    if bias is not None:
        first = _sum(first, tl.load(bias + cells, mask=exists, other=0.0))
        second = _sum(second, tl.load(bias + cells + HALF, mask=exists, other=0.0))
    if cosines is not None:
        cos = tl.load(cosines + token * HEAD_DIM + dims, mask=dims < HALF, other=0.0)
        sin = tl.load(sines + token * HEAD_DIM + dims, mask=dims < HALF, other=0.0)
        turned = _sum(_product(first, cos), _product(-second, sin))
        other = _sum(_product(second, cos), _product(first, sin))
        is_value = places[:, None] == GROUP + 1
        first, second = tl.where(is_value, first, turned), tl.where(is_value, second, other)
    queries = query + ((token * NUM_KV_HEADS + kv_heads) * GROUP + places)[:, None] * HEAD_DIM
    _store(queries + dims, first, second, HALF, exists & (places[:, None] < GROUP))
    place = (tl.load(slots + token) * NUM_KV_HEADS + kv_heads)[:, None] * HEAD_DIM + dims
    _store(keys + place, first, second, HALF, exists & (places[:, None] == GROUP))
    _store(values + place, first, second, HALF, exists & (places[:, None] == GROUP + 1))


@triton.jit
def _sum(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return (x.to(tl.float32) + y.to(tl.float32)).to(x.dtype)


@triton.jit
def _product(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return (x.to(tl.float32) * y.to(tl.float32)).to(x.dtype)


@triton.jit
def _store(
    cells: tl.tensor, first: tl.tensor, second: tl.tensor, HALF: tl.constexpr, mask: tl.tensor
) -> None:
    tl.store(cells, first, mask=mask)
    tl.store(cells + HALF, second, mask=mask)


def activate(wide: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor) -> None:
    """Activate as `LayerKernels` documents it."""
    num_tokens, width = wide.shape
    grid = num_tokens, triton.cdiv(width, ACTIVATED.value)
    activate_columns[grid](wide, bias, output, wide.stride(0), output.stride(0), WIDTH=width)


@triton.jit
def activate_columns(
    wide: tl.tensor,  # [num_tokens, WIDTH], rows `stride` apart
    bias: tl.tensor,  # [WIDTH], or None
    output: tl.tensor,  # [num_tokens, WIDTH], rows `output_stride` apart
    stride: tl.tensor,
    output_stride: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    """Add the bias to some columns of one token, and apply GELU."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * ACTIVATED + tl.arange(0, ACTIVATED)
    exists = columns < WIDTH
    x = tl.load(wide + token * stride + columns, mask=exists, other=0.0)
    if bias is not None:
        x = _sum(x, tl.load(bias + columns, mask=exists, other=0.0))
    exact = x.to(tl.float32)
    activated = 0.5 * exact * (1.0 + tl.erf(exact * SQRT_HALF))
    tl.store(output + token * output_stride + columns, activated.to(x.dtype), mask=exists)
