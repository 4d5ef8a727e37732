"""The kernels that a fused layer needs, and the same computed by plain torch: their reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from worker.model.layers.rotary import apply_rotary

Rotary = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, each [num_tokens, 1, head_dim]


@dataclass(frozen=True, slots=True)
class Norm:
    """The parameters of a layer norm; all norms of a network have one `eps`."""

    weight: torch.Tensor  # [hidden_size]
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Update:
    """What is still to be added to the residual."""

    values: torch.Tensor  # [num_tokens, hidden_size]
    bias: torch.Tensor | None = None  # [hidden_size], added to the rounded values

    def added_to(self, residual: torch.Tensor) -> torch.Tensor:
        return residual + (self.values if self.bias is None else self.values + self.bias)


class LayerKernels(Protocol):
    """The operations between the matrix products of a decoder layer, one launch each."""

    def add_and_normalize(
        self, residual: torch.Tensor, update: Update | None, norms: Sequence[Norm]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the residual [num_tokens, hidden_size] with its update, and it normalized.

        By one norm, or by two.
        """
        ...

    def place_heads(
        self,
        fused: torch.Tensor,
        bias: torch.Tensor | None,
        rotary: Rotary | None,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Add the bias; write keys and values into their slots; return the queries.

        `fused` [num_tokens, …], in the layout of `FalconAttention.split_heads`; its rows need not
        be adjacent. Queries [num_tokens, num_heads, head_dim] and keys are rotated, unless `rotary`
        is None. `slots`: int64 [num_tokens]. `keys` and `values`: one layer of the cache.
        """
        ...

    def activate(self, wide: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor) -> None:
        """Write GELU of `wide` plus bias to `output`; rows of both need not be adjacent."""
        ...


class PlainKernels:
    """`LayerKernels` by operations of torch, with the roundings of the separate layers."""

    def add_and_normalize(
        self, residual: torch.Tensor, update: Update | None, norms: Sequence[Norm]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        residual = residual if update is None else update.added_to(residual)
        shape = residual.shape[1:]
        return residual, [
            functional.layer_norm(residual, shape, norm.weight, norm.bias, norm.eps)
            for norm in norms
        ]

    def place_heads(
        self,
        fused: torch.Tensor,
        bias: torch.Tensor | None,
        rotary: Rotary | None,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        _, num_kv_heads, head_dim = keys.shape
        heads = fused if bias is None else fused + bias
        heads = heads.reshape(len(fused), num_kv_heads, -1, head_dim)
        query, key = heads[:, :, :-2].flatten(1, 2), heads[:, :, -2]
        if rotary is not None:
            query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        keys.index_copy_(0, slots, key)
        values.index_copy_(0, slots, heads[:, :, -1])
        return query

    def activate(self, wide: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor) -> None:
        output.copy_(functional.gelu(wide if bias is None else wide + bias))
