"""What can be told of a checkpoint without loading it: its style and its sizes.

Reads config.json and the headers of the weights, never a weight.
"""

from dataclasses import dataclass

import torch

from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.checkpoint.weights import LoadingPlan, plan_loading
from worker.model.config import ModelConfig
from worker.model.layers.quantization import Quantization
from worker.model.layers.quantize import saved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """`dtype` is what it is loaded in; sizes in bytes are those in it, or in 8 bits."""

    config: ModelConfig
    dtype: torch.dtype
    weight_bytes: int  # tied embeddings count once

    @property
    def kv_bytes_per_token(self) -> int:
        return self.config.kv_bytes_per_token(self.dtype)


def describe(
    source: str, dtype: torch.dtype | None = None, quantization: Quantization | None = None
) -> ModelInfo:
    """Describe a local folder or hub id; `dtype` None takes what it is loaded in by itself.

    Raises CheckpointError as loading it would.
    """
    return describe_plan(plan_loading(resolve_checkpoint(source)), dtype, quantization)


def describe_plan(
    plan: LoadingPlan, dtype: torch.dtype | None = None, quantization: Quantization | None = None
) -> ModelInfo:
    """`describe` for a checkpoint whose headers have been read."""
    dtype = dtype or plan.dtype
    whole_bytes = plan.model.config.num_parameters * dtype.itemsize
    return ModelInfo(
        config=plan.model.config,
        dtype=dtype,
        weight_bytes=whole_bytes - saved_bytes(plan.model, dtype, quantization),
    )
