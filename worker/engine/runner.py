"""Runs a step's plan through the model: packs the chunks into tensors, returns logits.

Owns model and KV cache. Never pads: sequences lie end to end. Knows nothing of requests' wishes.
"""

from typing import Protocol

import torch

from worker.engine.plan import StepPlan
from worker.model.falcon import FalconForCausalLM
from worker.model.kv_cache import AttentionMetadata, KVCache


class Runner(Protocol):
    """What the engine needs of a model."""

    num_blocks: int

    def forward(self, plan: StepPlan) -> torch.Tensor:
        """Compute the plan; float32 logits [len(plan.sampled), vocab] of the last tokens."""


class ModelRunner:
    """A Falcon and its KV cache. Running a plan again overwrites the same slots: it may be."""

    def __init__(self, model: FalconForCausalLM, kv_cache: KVCache) -> None:
        self.num_blocks = kv_cache.num_blocks
        self._model = model
        self.kv_cache = kv_cache
        self._device = kv_cache.keys.device

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.kv_cache.copy_blocks(plan.block_copies)
        token_ids = [token_id for chunk in plan.chunks for token_id in chunk.token_ids]
        positions = self._positions(plan)
        metadata = self._metadata(plan, positions)
        hidden_states = self._model(self._tensor(token_ids), positions, self.kv_cache, metadata)
        ends = metadata.cu_seqlens_q[1:]
        sampled = [
            end - 1 for chunk, end in zip(plan.chunks, ends, strict=True) if chunk.yields_token
        ]
        logits: torch.Tensor = self._model.compute_logits(hidden_states[self._tensor(sampled)])
        return logits

    def _positions(self, plan: StepPlan) -> torch.Tensor:
        """Place of each packed token in its own sequence, int64 [num_tokens]."""
        ranges = (range(chunk.start, chunk.context_len) for chunk in plan.chunks)
        return self._tensor([position for positions in ranges for position in positions])

    def _metadata(self, plan: StepPlan, positions: torch.Tensor) -> AttentionMetadata:
        tables = [chunk.sequence.block_table for chunk in plan.chunks]
        longest = max(map(len, tables))
        block_tables = self._tensor([t + [t[0]] * (longest - len(t)) for t in tables])
        lengths = self._tensor([chunk.num_tokens for chunk in plan.chunks])
        owners = torch.repeat_interleave(lengths)  # chunk of each packed token
        block_size = self.kv_cache.block_size
        blocks = block_tables[owners, positions // block_size]
        return AttentionMetadata(
            cu_seqlens_q=[0, *lengths.cumsum(0).tolist()],
            context_lens=[chunk.context_len for chunk in plan.chunks],
            slot_mapping=blocks * block_size + positions % block_size,
            block_tables=block_tables,
        )

    def _tensor(self, values: list[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
