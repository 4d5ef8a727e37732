"""Tensor parallelism: which part of each weight a process holds, and the sums over all processes.

The split is that of Megatron-LM (Shoeybi et al. 2019). KV heads with their query heads, and MLP
units, are divided, so that a layer needs one sum over all processes (a sequential one, two). Each
process holds embeddings, norms and head whole.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import distributed

from worker.model.config import ModelConfig


class _Split(Enum):
    ROWS = 0  # of the weight: each process computes some of the outputs
    COLUMNS = 1  # each reads some of the inputs; the outputs are added up


_SPLITS = {
    "query_key_value": _Split.ROWS,
    "dense": _Split.COLUMNS,
    "dense_h_to_4h": _Split.ROWS,
    "dense_4h_to_h": _Split.COLUMNS,
}


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """The part of rank `rank` among `size`; size 1 is the whole network."""

    rank: int = 0
    size: int = 1

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError if the network does not divide by `size`."""
        for name, count in (
            ("KV heads", config.num_kv_heads),
            ("MLP units", config.ffn_hidden_size),
        ):
            if count % self.size:
                raise ValueError(
                    f"tensor_parallel {self.size} does not divide the model's {count} {name}"
                )

    def share(self, count: int) -> int:
        """Return how many of `count` heads or units each process has."""
        return count // self.size

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """Return this rank's share of values that exist once per head."""
        return values.chunk(self.size)[self.rank]

    def own_update(
        self, linear: str, down: torch.Tensor, up: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this rank's part of `up @ down`, an update of the linear layer `linear`.

        down [rank, in_features] and up [out_features, rank] are whole; the result has some rows of
        `up` or some columns of `down`.
        """
        if _SPLITS[linear] is _Split.ROWS:
            return down, self.own(up)
        return self.own(down.T).T.contiguous(), up

    def read(self, name: str, stored: Any) -> torch.Tensor:
        """Read this rank's part, and no more, of the parameter `name` from a slice of safetensors.

        A bias that is added to a sum belongs to rank 0; on other ranks it is zero.
        """
        *_, module, kind = name.split(".")
        shape = stored.get_shape()
        split = _SPLITS.get(module)
        if self.size == 1 or split is None:
            whole: torch.Tensor = stored[:]
            return whole
        if split is _Split.COLUMNS and kind == "bias":
            bias: torch.Tensor = stored[:]
            return bias if self.rank == 0 else torch.zeros_like(bias)
        width = self.share(shape[split.value])
        own = slice(self.rank * width, (self.rank + 1) * width)
        part: torch.Tensor = stored[own] if split is _Split.ROWS else stored[:, own]
        return part

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place; each must call it, with equal shapes."""
        if self.size > 1:
            distributed.all_reduce(partial)
        return partial
