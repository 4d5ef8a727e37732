"""Read the weight of a linear layer when it is quantized.

Memory never holds the unquantized weights of more than one product.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from worker.model.checkpoint.shards import open_shard, read_ahead
from worker.model.checkpoint.weights import LoadingPlan
from worker.model.falcon import UNSPLIT, FalconForCausalLM
from worker.model.lora import LoraAdapter, merge_into
from worker.model.tensor_parallel import TensorParallel


class LinearWeights:
    """A reader for the weights that `load_weights` left unread."""

    def __init__(
        self,
        plan: LoadingPlan,
        model: FalconForCausalLM,
        *,
        dtype: torch.dtype,
        parallel: TensorParallel = UNSPLIT,
    ) -> None:
        self._plan = plan
        self._dtype = dtype
        self._parallel = parallel
        self._names = {
            module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)
        }
        self._adapters: Sequence[LoraAdapter] = ()
        self._read_ahead: set[Path] = set()

    def merge(self, adapters: Sequence[LoraAdapter]) -> None:
        """Add the updates of these adapters to each weight that is read from now on."""
        self._adapters = adapters

    def read(self, linear: nn.Linear) -> torch.Tensor:
        """Read the weight of a layer, or a rank's part of it, into memory.

        Closes the file, so that its pages do not count as memory of this process.
        """
        name = self._names[linear]
        header = self._plan.headers[self._plan.origins[f"{name}.weight"]]
        if header.file not in self._read_ahead:
            read_ahead(header.file)
            self._read_ahead.add(header.file)
        with open_shard(header.file) as shard:
            part = self._parallel.read(f"{name}.weight", shard.slice(header.stored_name))
            weight = part.to(self._dtype, copy=True)
        self._plan.progress.num_bytes += header.num_bytes
        merge_into(weight, name, self._adapters)
        return weight
