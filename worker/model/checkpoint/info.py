"""Describe a checkpoint from config.json and the headers of its weights, without loading it."""

from dataclasses import dataclass

import torch

from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.checkpoint.weights import LoadingPlan, plan_loading
from worker.model.config import ModelConfig
from worker.model.layers.quantization import Quantization
from worker.model.quantized_linears import saved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    config: ModelConfig
    dtype: torch.dtype  # that it is loaded in
    weight_bytes: int  # in that dtype or 8 bits; tied embeddings count once

    @property
    def kv_bytes_per_token(self) -> int:
        return self.config.kv_bytes_per_token(self.dtype)


def describe(
    source: str, dtype: torch.dtype | None = None, quantization: Quantization | None = None
) -> ModelInfo:
    """Describe a local folder or hub id; `dtype` None takes the checkpoint's.

    Raises CheckpointError as loading it would.
    """
    return describe_plan(plan_loading(resolve_checkpoint(source)), dtype, quantization)


def describe_plan(
    plan: LoadingPlan, dtype: torch.dtype | None = None, quantization: Quantization | None = None
) -> ModelInfo:
    """Describe a checkpoint by its plan."""
    dtype = dtype or plan.dtype
    whole_bytes = plan.model.config.num_parameters * dtype.itemsize
    return ModelInfo(
        config=plan.model.config,
        dtype=dtype,
        weight_bytes=whole_bytes - saved_bytes(plan.model, dtype, quantization),
    )
