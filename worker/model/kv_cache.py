"""The paged KV cache: one pool of fixed-size blocks per layer, shared by all sequences.

The block manager of the engine decides which sequence holds which block. Paging follows
PagedAttention (Kwon et al. 2023, vLLM).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate

import numpy as np
import torch

from worker.model.device_map import upload


class AttentionKernels(StrEnum):
    """Kernels of attention on a GPU; each takes the next where it does not apply."""

    AUTO = "auto"  # Triton for sequences with one new token, VARLEN for others
    VARLEN = "varlen"  # torch's flash attention
    REFERENCE = "reference"  # plain torch


@dataclass(slots=True)
class AttentionMetadata:
    """Shape of one packed forward pass over `num_seqs` sequences and `num_tokens` new tokens.

    The new tokens of sequence i are rows `cu_seqlens_q[i]:cu_seqlens_q[i+1]` of the packed input,
    and the last of its `context_lens[i]` tokens. Its position p is in slot
    `block_tables[i, p // block_size] * block_size + p % block_size`.
    """

    cu_seqlens_q: list[int]  # [num_seqs + 1]
    context_lens: list[int]  # [num_seqs], with this step's tokens
    slot_mapping: torch.Tensor  # int64 [num_tokens]
    block_tables: torch.Tensor  # int64 [num_seqs, max_blocks]; rows padded with any valid block
    kernels: AttentionKernels = AttentionKernels.AUTO
    # int32 [num_seqs], the true context lengths on the device, for sequences with one new token.
    # `context_lens` are then upper bounds, so that no shape depends on a length.
    fixed_lens: torch.Tensor | None = None

    def select(self, seqs: list[int]) -> "AttentionMetadata":
        """Return the metadata of some sequences, for attention to keys that are cached."""
        bounds = self.cu_seqlens_q
        [index] = upload([np.array(seqs)], self.block_tables.device)
        lengths = [bounds[seq + 1] - bounds[seq] for seq in seqs]
        return replace(
            self,
            cu_seqlens_q=[0, *accumulate(lengths)],
            context_lens=[self.context_lens[seq] for seq in seqs],
            block_tables=self.block_tables.index_select(0, index),
        )

    def to(self, device: torch.device) -> "AttentionMetadata":
        return replace(
            self,
            slot_mapping=self.slot_mapping.to(device),
            block_tables=self.block_tables.to(device),
            fixed_lens=None if self.fixed_lens is None else self.fixed_lens.to(device),
        )


class KVCache:
    """Keys and values of all layers on a device; KV heads are not repeated for query heads.

    `keys[layer]` and `values[layer]`: [num_blocks * block_size, num_kv_heads, head_dim].
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_layers = num_layers
        self.block_size = block_size
        self.num_blocks = num_blocks
        shape = (num_layers, num_blocks * block_size, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def copy_blocks(self, block_copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks in all layers, each (source, destination); no block is both."""
        if not block_copies:
            return
        pairs = torch.tensor(block_copies, dtype=torch.int64, device=self.keys.device)
        sources, destinations = pairs.unbind(dim=1)
        for pool in (self.keys, self.values):
            blocks = pool.view(len(pool), self.num_blocks, -1)
            blocks.index_copy_(1, destinations, blocks.index_select(1, sources))

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        """Store this step's keys and values, each [num_tokens, num_kv_heads, head_dim]."""
        self.keys[layer].index_copy_(0, slot_mapping, keys)
        self.values[layer].index_copy_(0, slot_mapping, values)
