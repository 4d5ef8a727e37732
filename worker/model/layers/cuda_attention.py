"""Choose the kernels of attention for a step: on a GPU, two kinds of sequences have their own.

Sequences with one new token are decoded; others compute a chunk of a prompt, or drafts. Together in
one kernel, a single chunk would make it give each decoded head a tile of queries of its own.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from worker.model.device_map import upload
from worker.model.kv_cache import AttentionKernels, AttentionMetadata, KVCache
from worker.model.layers.attention import PagedAttention
from worker.model.layers.decode_attention import (
    DecodeAttention,
    DecodeKernel,
    HeadShape,
    decode_kernel,
)
from worker.model.layers.flash_attention import (
    FlashAttention,
    VarlenKernel,
    flash_kernel,
    kernel_serves,
)

_AMPERE = (8, 0)  # the oldest GPUs that the kernels support


class CachedAttention(Protocol):
    """Attention of some sequences to keys that are in the cache.

    The contexts are written to `output` if it is given; its rows need not be adjacent.
    """

    def attend(
        self, layer: int, query: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor: ...


@dataclass(slots=True)
class Part:
    """Sequences of a step with kernels of their own."""

    rows: torch.Tensor | None  # int64 [n]: their rows of the packed input; None: all
    attention: CachedAttention


@dataclass(slots=True)
class CudaAttention:
    """Attention of one forward pass: planned once, called by every layer, as `PagedAttention`."""

    kv_cache: KVCache
    slot_mapping: torch.Tensor
    parts: list[Part]

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Cache this step's keys and values, then attend to all that are cached."""
        self.kv_cache.write(layer, key, value, self.slot_mapping)
        return self.attend(layer, query)

    def attend(
        self, layer: int, query: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend to all cached keys, this step's among them; write to `output` if it is given."""
        contexts = torch.empty_like(query) if output is None else output
        for part in self.parts:
            if part.rows is None:
                return part.attention.attend(layer, query, output)
            own = part.attention.attend(layer, query.index_select(0, part.rows))
            contexts.index_copy_(0, part.rows, own)
        return contexts


Attention = PagedAttention | CudaAttention


def plan_attention(
    kv_cache: KVCache,
    metadata: AttentionMetadata,
    alibi_slopes: torch.Tensor | None,
    group: int,
) -> Attention:
    """Plan the fastest attention that model and device support, for one forward pass.

    `group` is the number of query heads of a KV head.
    """
    device, dtype = kv_cache.keys.device, kv_cache.keys.dtype
    is_new_enough = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE
    if not is_new_enough or metadata.kernels is AttentionKernels.REFERENCE:
        return PagedAttention.plan(kv_cache, metadata, alibi_slopes)
    alibi = alibi_slopes is not None
    has_varlen = kernel_serves(dtype, kv_cache.keys.shape[-1], alibi=alibi)
    wants_triton = metadata.kernels is AttentionKernels.AUTO
    shape = HeadShape.of(kv_cache, group, alibi=alibi)
    return plan_parts(
        kv_cache,
        metadata,
        alibi_slopes,
        decode=decode_kernel(shape) if wants_triton else None,
        varlen=flash_kernel() if has_varlen else None,
    )


def plan_parts(
    kv_cache: KVCache,
    metadata: AttentionMetadata,
    alibi_slopes: torch.Tensor | None,
    *,
    decode: DecodeKernel | None,
    varlen: VarlenKernel | None,
) -> Attention:
    """Plan sequences with one query apart from others; without a kernel, by the reference."""

    def plan(own: AttentionMetadata, *, is_decoding: bool) -> CachedAttention:
        if is_decoding and decode is not None:
            return DecodeAttention.plan(kv_cache, own, alibi_slopes, decode)
        if varlen is not None:
            return FlashAttention.plan(kv_cache, own, varlen)
        return PagedAttention.plan(kv_cache, own, alibi_slopes)

    if decode is None and (varlen is None or metadata.fixed_lens is not None):
        return PagedAttention.plan(kv_cache, metadata, alibi_slopes)
    spans = list(pairwise(metadata.cu_seqlens_q))
    decoding = [seq for seq, (start, end) in enumerate(spans) if end - start == 1]
    if len(decoding) in (0, len(spans)):
        parts = [Part(None, plan(metadata, is_decoding=bool(decoding)))]
    else:
        others = [seq for seq, (start, end) in enumerate(spans) if end - start != 1]
        parts = [
            Part(
                rows=_rows(spans, seqs, metadata.block_tables.device),
                attention=plan(metadata.select(seqs), is_decoding=seqs is decoding),
            )
            for seqs in (decoding, others)
        ]
    return CudaAttention(kv_cache, metadata.slot_mapping, parts)


def _rows(spans: list[tuple[int, int]], seqs: list[int], device: torch.device) -> torch.Tensor:
    [rows] = upload([np.concatenate([np.arange(*spans[seq]) for seq in seqs])], device)
    return rows
