"""Run a step's plan on torch: pack the chunks into tensors, return logits.

Owns model and KV cache. Never pads: the tokens of sequences lie end to end.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import torch

from worker.engine.execution.packed_batch import Int64s, PackedStep, warm_up_steps
from worker.engine.scheduling.step_plan import BlockCopy, StepPlan
from worker.model.falcon import FalconForCausalLM
from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.lora import AdapterTokens, ServedAdapter


class Runner(Protocol):
    """The interface of a model that the engine needs."""

    num_blocks: int

    def forward(self, plan: StepPlan) -> torch.Tensor:
        """Compute a plan; return float32 logits [n, vocab]: of each chunk, scored then sampled."""


class ModelRunner:
    """A Falcon, its KV caches and the adapters that requests may name.

    A model that is spread over devices has one cache for each run of layers on one device. A plan
    may be run again: it overwrites the same slots.
    """

    def __init__(
        self,
        model: FalconForCausalLM,
        kv_caches: Sequence[KVCache],
        adapters: dict[str, ServedAdapter] | None = None,
    ) -> None:
        self.num_blocks = kv_caches[0].num_blocks
        self.block_size = kv_caches[0].block_size
        self.kv_caches = kv_caches
        self.model = model
        self.adapters = {} if adapters is None else adapters
        self._device = model.device

    @classmethod
    def with_cache(
        cls,
        model: FalconForCausalLM,
        *,
        num_blocks: int,
        block_size: int,
        adapters: dict[str, ServedAdapter] | None = None,
    ) -> "ModelRunner":
        """Allocate the caches in the dtype of the layers and on their devices."""
        kv_caches = [
            KVCache(
                num_layers=len(list(layers)),
                num_blocks=num_blocks,
                block_size=block_size,
                num_kv_heads=model.num_kv_heads,
                head_dim=model.config.head_dim,
                dtype=model.dtype,
                device=device,
            )
            for device, layers in groupby(model.layer_devices)
        ]
        return cls(model, kv_caches, adapters)

    def forward(self, plan: StepPlan) -> torch.Tensor:
        step = PackedStep.of(plan, self.block_size)
        return self.compute_logits(self.run_layers(step, plan.block_copies), step)

    def warm_up(self) -> None:
        """Compute the warm-up steps, so that no request waits while kernels are loaded."""
        for step in self.warm_up_steps():
            self.compute(step)

    def compute(self, step: PackedStep) -> torch.Tensor:
        """Compute a step that copies no block; return its logits."""
        return self.compute_logits(self.run_layers(step, []), step)

    def warm_up_steps(self) -> list[PackedStep]:
        return warm_up_steps(
            self._device.type, num_blocks=self.num_blocks, block_size=self.block_size
        )

    @torch.inference_mode()
    def run_layers(self, step: PackedStep, block_copies: list[BlockCopy]) -> torch.Tensor:
        """Compute the last hidden states of the step's tokens, [num_tokens, hidden_size]."""
        for kv_cache in self.kv_caches:
            kv_cache.copy_blocks(block_copies)
        hidden_states: torch.Tensor = self.model(
            self._tensor(step.token_ids),
            self._tensor(step.positions),
            self.kv_caches,
            self._metadata(step),
            self._adapter_tokens(step),
        )
        return hidden_states

    @torch.inference_mode()
    def compute_logits(self, hidden_states: torch.Tensor, step: PackedStep) -> torch.Tensor:
        return self.model.compute_logits(hidden_states[self._tensor(step.sampled)])

    def _metadata(self, step: PackedStep) -> AttentionMetadata:
        block_tables = step.block_tables()
        blocks = block_tables[step.chunk_indices(), step.positions // self.block_size]
        return AttentionMetadata(
            cu_seqlens_q=step.cu_seqlens_q.tolist(),
            context_lens=step.context_lens.tolist(),
            slot_mapping=self._tensor(blocks * self.block_size + step.positions % self.block_size),
            block_tables=self._tensor(block_tables),
        )

    def _adapter_tokens(self, step: PackedStep) -> AdapterTokens:
        tokens_of = step.adapter_tokens()
        return AdapterTokens(
            [(self.adapters[name], self._tensor(tokens)) for name, tokens in tokens_of.items()]
        )

    def _tensor(self, array: Int64s) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)
