"""Where keys and values live: one pool of fixed-size blocks per layer, shared by all sequences.

Owns the tensors and nothing else; who holds which block is the engine's business
(`worker/engine/scheduling/block_manager.py`). Paging follows PagedAttention (Kwon et al. 2023, vLLM).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(slots=True)
class AttentionMetadata:
    """Shape of one packed forward pass over `num_seqs` sequences and `num_tokens` new tokens.

    The new tokens of sequence i are rows `cu_seqlens_q[i]:cu_seqlens_q[i+1]` of the packed input
    and are the last of its `context_lens[i]` tokens; position p of it lives in slot
    `block_tables[i, p // block_size] * block_size + p % block_size`.
    """

    cu_seqlens_q: list[int]  # [num_seqs + 1]
    context_lens: list[int]  # [num_seqs], this step's tokens included
    slot_mapping: torch.Tensor  # int64 [num_tokens]
    block_tables: torch.Tensor  # int64 [num_seqs, max_blocks]; rows padded with any valid block

    def to(self, device: torch.device) -> "AttentionMetadata":
        return replace(
            self,
            slot_mapping=self.slot_mapping.to(device),
            block_tables=self.block_tables.to(device),
        )


class KVCache:
    """Keys and values of every layer on a device, with the model's own KV heads: none is repeated.

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
        """Copy whole blocks in all layers: (source, destination) each; none is both."""
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
