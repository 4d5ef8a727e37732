"""Run a step's plan on OpenVINO's CPU runtime, the fastest executor without a GPU.

Owns the compiled graph and its KV cache. Needs the optional extra openvino.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from worker.engine.config import EngineConfig
from worker.engine.execution.packed_batch import PackedStep, warm_up_steps
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.falcon import FalconForCausalLM
from worker.model.layers.quantization import GROUP_SIZE, Quantization
from worker.model.openvino_falcon import BLOCK_SIZE, QuantizedWeights, build_graph, is_cache

# Activations are quantized on the fly in groups of this size, each with a scale. Groups of 4-bit
# weights must be multiples of it.
_ACTIVATION_GROUP_SIZES = {Quantization.INT8: 128, Quantization.INT4: GROUP_SIZE}
_BLOCK_INDICES_MULTIPLE = 256

Caches = dict[str, NDArray[Any]]  # [num_blocks, …] by graph input
# numpy has no bfloat16: arrays of another type hold its bits.
_NUMPY_TYPES = {ov.Type.f32: np.float32, ov.Type.bf16: np.uint16, ov.Type.u8: np.uint8}
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "u8"}


@dataclass(frozen=True, slots=True)
class CompiledFalcon:
    """A compiled graph, with the weights that it reads."""

    graph: ov.CompiledModel
    model: FalconForCausalLM  # the graph shares the memory of its weights
    quantized: QuantizedWeights | None

    @classmethod
    def compile(
        cls,
        model: FalconForCausalLM,
        *,
        num_threads: int,
        quantized: QuantizedWeights | None,
        kv_dtype: torch.dtype,
    ) -> "CompiledFalcon":
        """Compile a model. The first step takes the memory of its linear layers once more."""
        properties = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[model.dtype],  # the default depends on the CPU
            "KV_CACHE_PRECISION": _PRECISIONS[kv_dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _activation_group_size(quantized),
        }
        graph = ov.Core().compile_model(build_graph(model, quantized), "CPU", properties)
        return cls(graph, model, quantized)


class OpenVinoRunner:
    """A Falcon compiled for this CPU. A plan may be run again: it overwrites the same slots."""

    def __init__(self, falcon: CompiledFalcon, *, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.falcon = falcon
        self.infer_request = falcon.graph.create_infer_request()
        self.kv_caches: Caches = {}
        for port in falcon.graph.inputs:
            if is_cache(name := port.get_any_name()):
                cache, tensor = _allocate_cache(port, num_blocks)
                self.kv_caches[name] = cache  # a tensor keeps no reference to its array
                self.infer_request.set_tensor(name, tensor)

    def forward(self, plan: StepPlan) -> torch.Tensor:
        """Compute a plan; return float32 logits [n, vocab]: of each chunk, scored then sampled.

        The next step overwrites them.
        """
        self.copy_blocks(plan.block_copies)
        return self.compute(PackedStep.of(plan, BLOCK_SIZE))

    def compute(self, step: PackedStep) -> torch.Tensor:
        # OpenVINO keeps no reference to the arrays: `inputs` must outlive the call.
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
            self.infer_request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self.infer_request.infer(share_outputs=True)
        return torch.from_numpy(self.infer_request.get_output_tensor(0).data)

    def warm_up(self, config: EngineConfig) -> None:
        """Compute the warm-up steps: one row, and several.

        The runtime lays out the weights at the first step of one row, and at the first of several.
        For a model of 500 MB that takes 200 ms, which no request should wait for.
        """
        for step in warm_up_steps("cpu", config, self.num_blocks):
            self.compute(step)
        if self.falcon.quantized is not None:
            self.falcon.quantized.file.drop_pages()

    def copy_blocks(self, block_copies: Sequence[tuple[int, int]]) -> None:
        for source, destination in block_copies:
            for cache in self.kv_caches.values():
                cache[destination] = cache[source]


def _activation_group_size(quantized: QuantizedWeights | None) -> int:
    """Return the group size; 0 leaves the activations as they are."""
    return 0 if quantized is None else _ACTIVATION_GROUP_SIZES.get(quantized.kind, 0)


def _padded(block_indices: NDArray[np.int32]) -> NDArray[np.int32]:
    """Pad to a length that seldom changes: for a new shape the runtime prepares its graph again."""
    missing = -len(block_indices) % _BLOCK_INDICES_MULTIPLE
    return np.concatenate([block_indices, np.zeros(missing, dtype=np.int32)])


def _allocate_cache(port: ov.ConstOutput, num_blocks: int) -> tuple[NDArray[Any], ov.Tensor]:
    """Allocate the keys or values of a layer in the layout that the compiled graph asks for.

    Fills them, so that the system provides the memory now. Page by page (2 MiB each, in every
    layer) it delayed a step by 200 ms whenever a context grew into new blocks.
    """
    block_shape = [dimension.get_length() for dimension in list(port.partial_shape)[1:]]
    shape = (num_blocks, *block_shape)
    cache = np.full(shape, 0, dtype=_NUMPY_TYPES[port.element_type])
    return cache, ov.Tensor(cache, ov.Shape(shape), port.element_type)
