"""Attention of packed tokens over the paged cache: the plain reference that others must equal.

Owns the gathering of blocks, the mask and the softmax. Knows nothing of layers, rotary embeddings
or who wrote the cache.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch

from worker.model.kv_cache import AttentionMetadata
from worker.model.rotary import alibi_bias


@dataclass(slots=True)
class _Group:
    """Sequences with equally many new tokens, computed together; all decoding rows are one."""

    rows: torch.Tensor  # int64 [num_seqs, num_new]: rows of the packed input
    slots: torch.Tensor  # int64 [num_seqs, max_context]: where the keys lie in the cache
    bias: torch.Tensor  # float32 [num_seqs, 1 | num_kv_heads, 1 | group, num_new, max_context]


class PagedAttention:
    """Attention of one forward pass; built once, called by every layer.

    Softmax and both products are in float32 whatever the model's dtype.
    """

    def __init__(
        self,
        metadata: AttentionMetadata,
        *,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        alibi_slopes: torch.Tensor | None,
    ) -> None:
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.groups = [
            self._group(metadata, seqs, block_size, dtype, alibi_slopes)
            for seqs in _by_num_new_tokens(metadata)
        ]

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Attend from `query` [num_tokens, num_heads, head_dim] to one layer's cache.

        `keys` and `values`: [num_slots, num_kv_heads, head_dim], this step's tokens included;
        query heads i·g … i·g + g - 1 share key head i. Returns [num_tokens, num_heads, head_dim].
        """
        output = torch.empty_like(query)
        for group in self.groups:
            output[group.rows] = self._attend(group, query, keys, values)
        return output

    def _attend(
        self, group: _Group, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        num_seqs, num_new = group.rows.shape
        heads = (num_seqs, self.num_kv_heads, -1, num_new, self.head_dim)
        q = query[group.rows].float().transpose(1, 2).reshape(heads) / math.sqrt(self.head_dim)
        k = keys[group.slots].float().transpose(1, 2)
        v = values[group.slots].float().transpose(1, 2)
        # Query heads that share a key head stand in one matrix, so its keys are read once.
        scores = (q.flatten(2, 3) @ k.transpose(-1, -2)).view(*q.shape[:-1], -1)
        weights = scores.add_(group.bias).softmax(dim=-1)
        context = (weights.flatten(2, 3) @ v).view(num_seqs, -1, num_new, self.head_dim)
        return context.transpose(1, 2).to(query.dtype)

    def _group(
        self,
        metadata: AttentionMetadata,
        seqs: list[int],
        block_size: int,
        dtype: torch.dtype,
        slopes: torch.Tensor | None,
    ) -> _Group:
        device = metadata.block_tables.device
        firsts = torch.tensor([metadata.cu_seqlens_q[i] for i in seqs], device=device)
        context_lens = torch.tensor([metadata.context_lens[i] for i in seqs], device=device)
        num_new = metadata.cu_seqlens_q[seqs[0] + 1] - metadata.cu_seqlens_q[seqs[0]]
        offsets = torch.arange(num_new, device=device)
        key_positions = torch.arange(int(context_lens.max()), device=device)
        query_positions = (context_lens - num_new)[:, None] + offsets
        # Columns past the end of a sequence read its last key again. The mask gives them weight 0,
        # but 0 x nan is nan: they must not reach into another sequence's slots.
        read = key_positions.minimum(context_lens[:, None] - 1)
        blocks = metadata.block_tables[seqs].gather(1, read // block_size)
        bias = torch.zeros(len(seqs), 1, 1, num_new, len(key_positions), device=device)
        bias.masked_fill_((key_positions > query_positions[..., None])[:, None, None], -torch.inf)
        if slopes is not None:
            alibi = alibi_bias(slopes, len(key_positions), self.head_dim, dtype).float()
            bias = bias + alibi.view(1, self.num_kv_heads, -1, 1, len(key_positions))
        return _Group(
            rows=firsts[:, None] + offsets, slots=blocks * block_size + read % block_size, bias=bias
        )


def _by_num_new_tokens(metadata: AttentionMetadata) -> list[list[int]]:
    """Indices of the sequences, in groups of the same number of new tokens."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(len(metadata.context_lens)):
        groups[metadata.cu_seqlens_q[i + 1] - metadata.cu_seqlens_q[i]].append(i)
    return list(groups.values())
