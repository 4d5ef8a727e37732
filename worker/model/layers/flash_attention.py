"""Attention on a GPU by torch's flash-attention kernel, over packed queries and gathered keys."""

import inspect
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, cast

import numpy as np
import torch

from worker.model.device_map import upload
from worker.model.kv_cache import AttentionMetadata, KVCache

_HALF_PRECISION = (torch.float16, torch.bfloat16)
_HEAD_DIM_MULTIPLE, _MAX_HEAD_DIM = 8, 256  # of flash-attention 2 (Dao 2023)
_SEES_ALL, _SEES_PAST = (-1, -1), (-1, 0)  # windows of keys left and right of a query; -1: no end


class VarlenKernel(Protocol):
    """`torch.nn.attention.varlen.varlen_attn`: attention in many sequences, packed end to end.

    By `window_size`, query i of a sequence with n queries sees the keys up to position
    i + context - n, or all keys. Scores are scaled by 1 / sqrt(head_dim).
    """

    def __call__(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        key: torch.Tensor,  # [sum of contexts, num_kv_heads, head_dim]
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,  # int32 [num_seqs + 1]
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        window_size: tuple[int, int],
    ) -> torch.Tensor: ...


@dataclass(slots=True)
class FlashAttention:
    """Attention of one forward pass: planned once, called by every layer.

    Sequences with one query are planned apart from others: see `attend`.
    """

    kv_cache: KVCache
    context_slots: torch.Tensor  # int64 [sum of contexts]: slots of all keys in the cache
    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    max_q: int
    max_k: int
    kernel: VarlenKernel

    @classmethod
    def plan(
        cls, kv_cache: KVCache, metadata: AttentionMetadata, kernel: VarlenKernel
    ) -> "FlashAttention":
        context_lens, bounds_q = np.array(metadata.context_lens), np.array(metadata.cu_seqlens_q)
        bounds_k = np.concatenate([[0], context_lens.cumsum()])
        cu_seqlens_q, cu_seqlens_k, lens, starts = upload(
            [bounds_q.astype(np.int32), bounds_k.astype(np.int32), context_lens, bounds_k[:-1]],
            metadata.block_tables.device,
        )
        return cls(
            kv_cache=kv_cache,
            context_slots=_context_slots(metadata, lens, starts, kv_cache.block_size),
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            max_q=int(np.diff(bounds_q).max()),
            max_k=max(metadata.context_lens),
            kernel=kernel,
        )

    def attend(
        self, layer: int, query: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend as `PagedAttention` does, with half-precision products and float32 sums.

        A single query is the last token of its sequence and sees every key. Without a window, the
        kernel lets query heads share the keys of a KV head (falcon-7b has 71 per KV head).
        """
        contexts = self.kernel(
            query,
            self.kv_cache.keys[layer].index_select(0, self.context_slots),
            self.kv_cache.values[layer].index_select(0, self.context_slots),
            self.cu_seqlens_q,
            self.cu_seqlens_k,
            self.max_q,
            self.max_k,
            window_size=_SEES_ALL if self.max_q == 1 else _SEES_PAST,
        )
        return contexts if output is None else output.copy_(contexts)


def kernel_serves(dtype: torch.dtype, head_dim: int, *, alibi: bool) -> bool:
    """Return whether the kernel supports a model; its alibi is not rounded as Falcon's is."""
    fits = head_dim % _HEAD_DIM_MULTIPLE == 0 and head_dim <= _MAX_HEAD_DIM
    return dtype in _HALF_PRECISION and fits and not alibi


@cache
def flash_kernel() -> VarlenKernel:
    """Return the kernel. Later torch than 2.11 needs an argument for heads that share keys."""
    from torch.nn.attention.varlen import varlen_attn  # imports torch's compiler: two seconds

    has_option = "enable_gqa" in inspect.signature(varlen_attn).parameters
    kernel = partial(varlen_attn, enable_gqa=True) if has_option else varlen_attn
    return cast(VarlenKernel, kernel)  # it can also return a pair


def _context_slots(
    metadata: AttentionMetadata, context_lens: torch.Tensor, starts: torch.Tensor, block_size: int
) -> torch.Tensor:
    """Return the slots of all positions, one sequence after the other.

    `context_lens` and `starts`, where each sequence begins in the result, are int64 [num_seqs].
    Computed on the device with a known output size, so the host does not wait for it.
    """
    device, num_keys = metadata.block_tables.device, sum(metadata.context_lens)
    sequences = torch.repeat_interleave(context_lens, output_size=num_keys)
    positions = torch.arange(num_keys, device=device) - starts[sequences]
    blocks = metadata.block_tables[sequences, positions // block_size]
    return blocks * block_size + positions % block_size
