"""What `falconer model info` tells of a checkpoint: sizes, and how many rows fit in memory.

Reads config.json and the headers of the weights, never a weight.
"""

from dataclasses import dataclass

import torch

from worker.model.checkpoint import resolve_checkpoint
from worker.model.quantization import Quantization
from worker.model.rounding import weight_bytes
from worker.model.weights import plan_loading


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    style: str  # "7b", "40b", "11b", "rw" or "custom"
    num_parameters: int
    dtype: torch.dtype  # what it is loaded in when nothing else is asked for
    weight_bytes: int  # in `dtype` or 8 bits, tied embeddings once
    kv_bytes_per_token: int  # in `dtype`
    context_length: int  # tokens
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int

    def rows_that_fit(self, memory_bytes: int, *, context_length: int | None = None) -> int:
        """Sequences of `context_length` tokens (default: the longest) beside the weights.

        Activations are left out: keep some memory back for them.
        """
        room = memory_bytes - self.weight_bytes
        tokens = self.context_length if context_length is None else context_length
        return max(0, room // (self.kv_bytes_per_token * tokens))


def describe(source: str, quantization: Quantization | None = None) -> ModelInfo:
    """Describe a local folder or hub id. Raises CheckpointError as loading it would."""
    plan = plan_loading(resolve_checkpoint(source))
    config = plan.model.config
    # INT8 exists in float32 alone.
    dtype = torch.float32 if quantization is Quantization.INT8 else plan.dtype
    return ModelInfo(
        style=config.style,
        num_parameters=config.num_parameters,
        dtype=dtype,
        weight_bytes=weight_bytes(plan.model, dtype, quantization),
        kv_bytes_per_token=config.kv_bytes_per_token(dtype),
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
    )
