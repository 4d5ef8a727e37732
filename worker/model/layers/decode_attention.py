"""Attention of sequences with one query each, by Triton kernels on the blocks of the KV cache.

Importing this module does not import Triton.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch

from worker.model.device_map import current_device, upload
from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.attention import PagedAttention
from worker.model.layers.rotary import alibi_bias, alibi_slopes

logger = logging.getLogger(__name__)

# Above these limits, compilers for sm_80, sm_90 or sm_100 spill registers.
_MAX_HEAD_DIM = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 64}
_MAX_GROUP_SIZE = {torch.float16: 8192, torch.bfloat16: 8192, torch.float32: 2048}
_MIN_DIM = 16  # of a product on tensor cores
_TOLERANCE = 2e-2  # of bfloat16


class DecodeKernel(Protocol):
    """Attention of one query for each row, which sees all keys of its context.

    A row's result does not depend on the other rows. Scores are scaled by 1 / sqrt(head_dim);
    `bias` is added after that. Products are in the dtype of the cache, sums in float32.
    """

    def __call__(
        self,
        query: torch.Tensor,  # [num_rows, num_heads, head_dim]
        keys: torch.Tensor,  # [slots, num_kv_heads, head_dim], one layer of the cache
        values: torch.Tensor,
        block_tables: torch.Tensor,  # int64 [num_rows, max_blocks]
        context_lens: torch.Tensor,  # int32 [num_rows]; 0 gives zeros
        bias: torch.Tensor | None,  # [num_heads, max_context], by the position of the key
        output: torch.Tensor | None = None,  # as `query`, for the result; rows need not be adjacent
        *,
        block_size: int,
        max_context: int,
    ) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class HeadShape:
    """All that a kernel is compiled for."""

    device: torch.device
    dtype: torch.dtype
    num_kv_heads: int
    group: int  # query heads of a KV head
    head_dim: int
    block_size: int
    alibi: bool

    @classmethod
    def of(cls, kv_cache: KVCache, group: int, *, alibi: bool) -> "HeadShape":
        *_, num_kv_heads, head_dim = kv_cache.keys.shape
        device, dtype = kv_cache.keys.device, kv_cache.keys.dtype
        return cls(device, dtype, num_kv_heads, group, head_dim, kv_cache.block_size, alibi)

    @property
    def fits(self) -> bool:
        """Return whether the kernels compile for it without spilled registers."""
        padded = max(_MIN_DIM, 1 << (self.head_dim - 1).bit_length())  # to a power of 2
        return (
            padded <= _MAX_HEAD_DIM.get(self.dtype, 0)
            and self.group * padded <= _MAX_GROUP_SIZE[self.dtype]
        )


@dataclass(slots=True)
class DecodeAttention:
    """Attention of one forward pass over sequences with one query each."""

    kv_cache: KVCache
    block_tables: torch.Tensor
    context_lens: torch.Tensor
    bias: torch.Tensor | None
    max_context: int
    kernel: DecodeKernel

    @classmethod
    def plan(
        cls,
        kv_cache: KVCache,
        metadata: AttentionMetadata,
        slopes: torch.Tensor | None,
        kernel: DecodeKernel,
    ) -> "DecodeAttention":
        """Plan for a step in which every sequence has one new token."""
        device, dtype = kv_cache.keys.device, kv_cache.keys.dtype
        head_dim, max_context = kv_cache.keys.shape[-1], max(metadata.context_lens)
        if (context_lens := metadata.fixed_lens) is None:
            [context_lens] = upload([np.array(metadata.context_lens, dtype=np.int32)], device)
        return cls(
            kv_cache=kv_cache,
            block_tables=metadata.block_tables,
            context_lens=context_lens,
            bias=None if slopes is None else alibi_bias(slopes, max_context, head_dim, dtype),
            max_context=max_context,
            kernel=kernel,
        )

    def attend(
        self, layer: int, query: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend to the cached keys, with queries [num_seqs, num_heads, head_dim]."""
        with current_device(query.device):  # Triton launches kernels on the current GPU
            return self.kernel(
                query,
                self.kv_cache.keys[layer],
                self.kv_cache.values[layer],
                self.block_tables,
                self.context_lens,
                self.bias,
                output,
                block_size=self.kv_cache.block_size,
                max_context=self.max_context,
            )


@cache
def decode_kernel(shape: HeadShape) -> DecodeKernel | None:
    """Return the kernel, compiled for a shape and compared with the reference.

    None, with a warning in the log, where it cannot be used: Triton or its C compiler may be
    missing, and no failure of a compiler may keep a model from being served.
    """
    if not shape.fits:
        _warn(f"no kernel for {shape.group} heads of size {shape.head_dim} in {shape.dtype}")
        return None
    try:
        from worker.model.layers.decode_kernels import attend_decoding

        error = largest_error(shape, attend_decoding)
    except Exception as failure:  # of an import, a compiler, a driver
        _warn(" ".join(f"{type(failure).__name__}: {failure}".split()))
        return None
    if not error <= _TOLERANCE:  # also nan
        _warn(f"its result is wrong by {error}")
        return None
    logger.info("attention of decoding rows: Triton kernel, error %.1e", error)
    return attend_decoding


@torch.inference_mode()
def largest_error(shape: HeadShape, kernel: DecodeKernel) -> float:
    """Return the largest difference to the reference, for a short and a longer row.

    Their blocks alternate. Slots without a key hold nan.
    """
    context_lens, block_size = [1, 300], shape.block_size
    num_blocks = -(-max(context_lens) // block_size)
    kv_cache = KVCache(
        num_layers=1,
        num_blocks=2 * num_blocks,
        block_size=block_size,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        dtype=shape.dtype,
        device=shape.device,
    )
    kv_cache.keys.fill_(torch.nan)
    kv_cache.values.fill_(torch.nan)
    block_tables = torch.arange(2 * num_blocks).view(num_blocks, 2).T.contiguous()
    positions = torch.arange(max(context_lens))
    slots = block_tables[:, positions // block_size] * block_size + positions % block_size
    slots = torch.cat([slots[0, : context_lens[0]], slots[1]])
    metadata = AttentionMetadata([0, 1, 2], context_lens, slots, block_tables).to(shape.device)
    num_heads = shape.num_kv_heads * shape.group
    slopes = alibi_slopes(num_heads).to(shape.device) if shape.alibi else None
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(*rows_and_heads, shape.head_dim, generator=generator).to(
            shape.device, shape.dtype
        )
        for rows_and_heads in ((2, num_heads), *[(len(slots), shape.num_kv_heads)] * 2)
    )
    kv_cache.write(0, keys, values, metadata.slot_mapping)
    expected = PagedAttention.plan(kv_cache, metadata, slopes).attend(0, query)
    actual = DecodeAttention.plan(kv_cache, metadata, slopes, kernel).attend(0, query)
    return (actual.float() - expected.float()).abs().max().item()


def _warn(reason: str) -> None:
    logger.warning("attention of decoding rows without a Triton kernel, slower: %s", reason)
