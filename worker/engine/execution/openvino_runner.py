"""Runs a step's plan on OpenVINO's CPU runtime: the fast way through a Falcon without a GPU.

Owns the compiled graph and the KV cache it writes into. An optional extra: nothing else imports
openvino.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from worker.engine.execution.packed_batch import PackedStep
from worker.engine.execution.warm_up import warm_up_steps
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.config import ModelConfig
from worker.model.falcon import FalconForCausalLM
from worker.model.layers.quantization import Quantization
from worker.model.openvino_falcon import BLOCK_SIZE, build_graph

# Activations of 8-bit layers are quantized on the fly in groups of this many, each with a scale.
_ACTIVATION_GROUP_SIZE = 128
_BLOCK_INDICES_MULTIPLE = 256

Caches = dict[str, NDArray[np.float32]]


class OpenVinoRunner:
    """A Falcon compiled for this CPU. Running a plan again overwrites the same slots: it may be."""

    def __init__(
        self, model: FalconForCausalLM, compiled: ov.CompiledModel, *, num_blocks: int
    ) -> None:
        self.num_blocks = num_blocks
        self._model = model  # the graph shares the memory of its weights
        self._request = compiled.create_infer_request()
        self._caches = _allocate_caches(model.config, num_blocks)
        for name, cache in self._caches.items():
            self._request.set_tensor(name, ov.Tensor(cache, shared_memory=True))

    @staticmethod
    def compile(
        model: FalconForCausalLM, *, num_threads: int, quantization: Quantization | None
    ) -> ov.CompiledModel:
        """Compile a model in float32; takes as much memory as its weights, once more."""
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where the CPU has it
            "KV_CACHE_PRECISION": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _activation_group_size(quantization),
        }
        return ov.Core().compile_model(build_graph(model, quantization), "CPU", properties)

    def forward(self, plan: StepPlan) -> torch.Tensor:
        """Float32 logits [len(plan.sampled), vocab]: to be spent, the next step overwrites them."""
        self._copy_blocks(plan.block_copies)
        return self._compute(PackedStep.of(plan, BLOCK_SIZE))

    def _compute(self, step: PackedStep) -> torch.Tensor:
        # OpenVINO keeps no reference: these names must outlive the call.
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": step.token_ids,
            "positions": step.positions,
            "sampled": step.sampled,
            "past_lens": step.past_lens,
            "subsequence_begins": step.cu_seqlens_q,
            "block_indices": _padded(step.block_indices),
            "block_indices_begins": step.block_begins,
            "max_context_len": np.array(step.context_lens.max()),
        }
        for name, array in inputs.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._request.infer(share_outputs=True)
        return torch.from_numpy(self._request.get_output_tensor(0).data)

    def warm_up(self) -> None:
        """Compute one row, and several, of what nobody asked for.

        The runtime lays out weights when it first meets a number of rows of either kind: for a
        model of 500 MB that takes 200 ms, which no caller should wait for.
        """
        cpu = torch.device("cpu")
        for step in warm_up_steps(cpu, num_blocks=self.num_blocks, block_size=BLOCK_SIZE):
            self._compute(step)

    def _copy_blocks(self, block_copies: Sequence[tuple[int, int]]) -> None:
        for source, destination in block_copies:
            for cache in self._caches.values():
                cache[destination] = cache[source]


def _activation_group_size(quantization: Quantization | None) -> int:
    """0 leaves the activations as they are."""
    return _ACTIVATION_GROUP_SIZE if quantization is Quantization.INT8 else 0


def _padded(block_indices: NDArray[np.int32]) -> NDArray[np.int32]:
    """To a length that seldom changes: a new shape makes the runtime go over its graph again."""
    missing = -len(block_indices) % _BLOCK_INDICES_MULTIPLE
    return np.concatenate([block_indices, np.zeros(missing, dtype=np.int32)])


def _allocate_caches(config: ModelConfig, num_blocks: int) -> Caches:
    """Keys and values of every layer by the name of their input.

    Written to, so that the system hands out the memory now: given page by page (2 MiB each, in
    every layer), it once held up a step for 200 ms whenever a context grew into new blocks.
    """
    shape = (num_blocks, config.num_kv_heads, BLOCK_SIZE, config.head_dim)
    return {
        f"{kind}_cache.{layer}": np.full(shape, 0, dtype=np.float32)
        for layer in range(config.num_layers)
        for kind in ("key", "value")
    }
