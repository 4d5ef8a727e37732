"""Run a step's plan on torch: pack the chunks into tensors, return logits.

Owns model and KV cache. Never pads: the tokens of sequences lie end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch

from worker.engine.config import EngineConfig
from worker.engine.execution.packed_batch import PackedStep, warm_up_steps
from worker.engine.scheduling.step_plan import BlockCopy, StepPlan
from worker.model.device_map import current_device, upload
from worker.model.falcon import FalconForCausalLM
from worker.model.kv_cache import AttentionKernels, AttentionMetadata, KVCache
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
        attention: AttentionKernels = AttentionKernels.AUTO,
        num_padding_blocks: int = 0,
    ) -> None:
        self.num_blocks = kv_caches[0].num_blocks - num_padding_blocks
        self.block_size = kv_caches[0].block_size
        self.kv_caches = kv_caches
        self.model = model
        self.adapters = {} if adapters is None else adapters
        self.attention = attention
        self.num_padding_blocks = num_padding_blocks
        self._device = model.device

    @classmethod
    def with_cache(
        cls,
        model: FalconForCausalLM,
        *,
        num_blocks: int,
        block_size: int,
        adapters: dict[str, ServedAdapter] | None = None,
        attention: AttentionKernels = AttentionKernels.AUTO,
        num_padding_blocks: int = 0,
    ) -> "ModelRunner":
        """Allocate the caches in the dtype of the layers and on their devices.

        No sequence holds the `num_padding_blocks` last blocks, which come on top of `num_blocks`.
        """
        kv_caches = [
            KVCache(
                num_layers=len(list(layers)),
                num_blocks=num_blocks + num_padding_blocks,
                block_size=block_size,
                num_kv_heads=model.num_kv_heads,
                head_dim=model.config.head_dim,
                dtype=model.dtype,
                device=device,
            )
            for device, layers in groupby(model.layer_devices)
        ]
        return cls(model, kv_caches, adapters, attention, num_padding_blocks)

    def forward(self, plan: StepPlan) -> torch.Tensor:
        step = PackedStep.of(plan, self.block_size)
        return self.compute_logits(self.run_layers(step, plan.block_copies))

    def warm_up(self, config: EngineConfig) -> None:
        """Compute the warm-up steps, so that no request waits while kernels are loaded."""
        for step in self.warm_up_steps(config):
            self.compute(step)

    def compute(self, step: PackedStep) -> torch.Tensor:
        """Compute a step that copies no block; return its logits."""
        return self.compute_logits(self.run_layers(step, []))

    def warm_up_steps(self, config: EngineConfig) -> list[PackedStep]:
        return warm_up_steps(self._device.type, config, self.num_blocks)

    @torch.inference_mode()
    def run_layers(self, step: PackedStep, block_copies: list[BlockCopy]) -> torch.Tensor:
        """Compute the last hidden states of the tokens in `step.sampled`, [n, hidden_size]."""
        with current_device(self._device):
            for kv_cache in self.kv_caches:
                kv_cache.copy_blocks(block_copies)
            inputs = self._upload(step)
            hidden_states: torch.Tensor = self.model(
                inputs.token_ids, inputs.positions, self.kv_caches, inputs.metadata, inputs.adapters
            )
            return hidden_states if inputs.sampled is None else hidden_states[inputs.sampled]

    @torch.inference_mode()
    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.model.compute_logits(hidden_states)

    def _upload(self, step: PackedStep) -> "_StepInputs":
        """Copy all that the step needs to the device, before it computes anything."""
        block_tables, adapter_tokens = step.block_tables(), step.adapter_tokens()
        blocks = block_tables[step.chunk_indices(), step.positions // self.block_size]
        slots = blocks * self.block_size + step.positions % self.block_size
        samples_all = len(step.sampled) == len(step.token_ids)
        arrays = [step.token_ids, step.positions, step.sampled, slots, block_tables]
        token_ids, positions, sampled, slot_mapping, tables, *adapted = upload(
            [*arrays, *adapter_tokens.values()], self._device
        )
        adapters = [self.adapters[name] for name in adapter_tokens]
        return _StepInputs(
            token_ids=token_ids,
            positions=positions,
            sampled=None if samples_all else sampled,
            metadata=AttentionMetadata(
                cu_seqlens_q=step.cu_seqlens_q.tolist(),
                context_lens=step.context_lens.tolist(),
                slot_mapping=slot_mapping,
                block_tables=tables,
                kernels=self.attention,
            ),
            adapters=AdapterTokens(list(zip(adapters, adapted, strict=True))),
        )


@dataclass(frozen=True, slots=True)
class _StepInputs:
    """A packed step on the device."""

    token_ids: torch.Tensor  # int64 [num_tokens]
    positions: torch.Tensor  # int64 [num_tokens]
    sampled: torch.Tensor | None  # int64 [n]: tokens that need logits; None: all
    metadata: AttentionMetadata
    adapters: AdapterTokens
