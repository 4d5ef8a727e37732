"""Attention of packed tokens over the paged cache: the plain reference for other kernels."""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch

from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.rotary import alibi_bias


@dataclass(slots=True)
class _Group:
    """Sequences with the same number of new tokens and similar contexts, computed together."""

    rows: torch.Tensor  # int64 [num_seqs, num_new]: rows of the packed input
    slots: torch.Tensor  # int64 [num_seqs, max_context]: slots of the keys in the cache
    bias: torch.Tensor  # float32 [num_seqs, 1 | num_kv_heads, 1 | group, num_new, max_context]


@dataclass(slots=True)
class PagedAttention:
    """Attention of one forward pass: planned once, called by every layer.

    Softmax and both products are in float32, whatever the dtype of the cache.
    """

    kv_cache: KVCache
    slot_mapping: torch.Tensor
    groups: list[_Group]

    @classmethod
    def plan(
        cls, kv_cache: KVCache, metadata: AttentionMetadata, alibi_slopes: torch.Tensor | None
    ) -> "PagedAttention":
        """Compute masks and slots; `alibi_slopes` come from `rotary.alibi_slopes`."""
        if metadata.fixed_lens is not None:
            groups = [_plan_fixed(kv_cache, metadata, metadata.fixed_lens, alibi_slopes)]
        else:
            groups = [
                _plan_group(kv_cache, metadata, seqs, alibi_slopes) for seqs in _by_shape(metadata)
            ]
        return cls(kv_cache, metadata.slot_mapping, groups)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Cache this step's keys and values, then attend to all that are cached.

        `query`: [num_tokens, num_heads, head_dim]; `key` and `value`: [num_tokens, num_kv_heads,
        head_dim]. With g query heads to a KV head, heads i·g … i·g + g - 1 read KV head i.
        Returns [num_tokens, num_heads, head_dim].
        """
        self.kv_cache.write(layer, key, value, self.slot_mapping)
        return self.attend(layer, query)

    def attend(
        self, layer: int, query: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend to all cached keys, this step's among them; write to `output` if it is given."""
        output = torch.empty_like(query) if output is None else output
        for group in self.groups:
            keys = self.kv_cache.keys[layer][group.slots]
            values = self.kv_cache.values[layer][group.slots]
            output[group.rows] = _attend(query[group.rows], keys, values, group.bias)
        return output


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Attend with queries [num_seqs, num_new, num_heads, head_dim]; return contexts of that shape.

    `keys` and `values` are [num_seqs, max_context, num_kv_heads, head_dim].
    """
    num_seqs, num_new, num_heads, head_dim = query.shape
    num_kv_heads = keys.shape[2]
    q = query.float().transpose(1, 2) / math.sqrt(head_dim)
    k = keys.float().transpose(1, 2)
    v = values.float().transpose(1, 2)
    # Query heads that share a KV head form one matrix, so that its keys are read once.
    q = q.reshape(num_seqs, num_kv_heads, -1, head_dim)
    scores = (q @ k.transpose(-1, -2)).view(num_seqs, num_kv_heads, -1, num_new, k.shape[2])
    weights = scores.add_(bias).softmax(dim=-1).flatten(2, 3)
    context = (weights @ v).view(num_seqs, num_heads, num_new, head_dim)
    return context.transpose(1, 2).to(query.dtype)


def _plan_group(
    kv_cache: KVCache,
    metadata: AttentionMetadata,
    seqs: list[int],
    alibi_slopes: torch.Tensor | None,
) -> _Group:
    device = metadata.block_tables.device
    return _make_group(
        kv_cache,
        metadata.block_tables[seqs],
        torch.tensor([metadata.cu_seqlens_q[i] for i in seqs], device=device),
        torch.tensor([metadata.context_lens[i] for i in seqs], device=device),
        alibi_slopes,
        num_new=_num_new_tokens(metadata, seqs[0]),
        max_context=max(metadata.context_lens[i] for i in seqs),
    )


def _plan_fixed(
    kv_cache: KVCache,
    metadata: AttentionMetadata,
    context_lens: torch.Tensor,
    alibi_slopes: torch.Tensor | None,
) -> _Group:
    """Plan all sequences, of one new token each, without a copy from the host."""
    block_tables = metadata.block_tables
    return _make_group(
        kv_cache,
        block_tables,
        torch.arange(len(block_tables), device=block_tables.device),
        context_lens.long(),
        alibi_slopes,
        num_new=1,
        max_context=max(metadata.context_lens),
    )


def _make_group(
    kv_cache: KVCache,
    block_tables: torch.Tensor,
    first_rows: torch.Tensor,
    context_lens: torch.Tensor,
    alibi_slopes: torch.Tensor | None,
    *,
    num_new: int,
    max_context: int,
) -> _Group:
    device = block_tables.device
    new = torch.arange(num_new, device=device)
    positions = torch.arange(max_context, device=device)
    query_positions = (context_lens - len(new))[:, None] + new

    hidden = positions > query_positions[..., None]
    bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
    bias = bias[:, None, None]
    if alibi_slopes is not None:
        *_, num_kv_heads, head_dim = kv_cache.keys.shape
        alibi = alibi_bias(alibi_slopes, len(positions), head_dim, kv_cache.keys.dtype)
        bias = bias + alibi.float().view(num_kv_heads, -1, 1, len(positions))
    slots = _slots(block_tables, kv_cache.block_size, positions, context_lens)
    return _Group(rows=first_rows[:, None] + new, slots=slots, bias=bias)


def _slots(
    block_tables: torch.Tensor,
    block_size: int,
    positions: torch.Tensor,
    context_lens: torch.Tensor,
) -> torch.Tensor:
    """Return the slots of each sequence's keys, [num_seqs, max_context].

    Columns past the end of a sequence repeat its last slot. The mask gives them weight 0, but
    0 x nan is nan: they must not point to slots that other sequences have left.
    """
    positions = positions.minimum(context_lens[:, None] - 1)
    return block_tables.gather(1, positions // block_size) * block_size + positions % block_size


def _by_shape(metadata: AttentionMetadata) -> list[list[int]]:
    """Group the sequences by their number of new tokens and the magnitude of their context.

    A group is computed as wide as its longest context, so no context may be twice another.
    """
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, context_len in enumerate(metadata.context_lens):
        groups[_num_new_tokens(metadata, i), context_len.bit_length()].append(i)
    return list(groups.values())


def _num_new_tokens(metadata: AttentionMetadata, seq: int) -> int:
    return metadata.cu_seqlens_q[seq + 1] - metadata.cu_seqlens_q[seq]
