"""Describe a checkpoint from config.json and the headers of its weights, without loading it."""

from dataclasses import dataclass

import torch

from worker.model.checkpoint.weights import LoadingPlan
from worker.model.config import ModelConfig
from worker.model.layers.quantization import Quantization
from worker.model.quantized_linears import quantized_weights, weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    config: ModelConfig
    dtype: torch.dtype  # that it is loaded in
    weight_bytes: int  # in that dtype or quantized; tied embeddings count once

    @property
    def kv_bytes_per_token(self) -> int:
        return self.config.kv_bytes_per_token(self.dtype)


def describe(
    plan: LoadingPlan, dtype: torch.dtype | None = None, quantization: Quantization | None = None
) -> ModelInfo:
    """Describe a checkpoint by its plan; `dtype` None takes the checkpoint's."""
    dtype = dtype or plan.dtype
    unread = quantized_weights(plan.model, quantization)
    embeddings = plan.embeddings_dtype(dtype, unread)
    return ModelInfo(
        config=plan.model.config,
        dtype=dtype,
        weight_bytes=weight_bytes(plan.model, dtype, quantization, embeddings).total,
    )
