"""The continuous-batching engine: `Engine.add`, `.abort`, `.step`; `generate` for scripts.

Other packages import the names in `__all__`. The loader of the worker, the command line and the
benchmarks also use `loading` and `memory`.
"""

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.execution.cuda_graphs import CudaGraphs
from worker.engine.execution.executor import Executor
from worker.engine.fault_isolation import EngineBroken
from worker.engine.loading.adapters import AdapterMode
from worker.engine.offline import Completion, GenerationFailed, generate
from worker.engine.outputs import (
    FailureCause,
    FinishReason,
    Output,
    PromptScores,
    RequestFailed,
    TokenOutput,
)
from worker.engine.request import Request
from worker.engine.sampling_params import SamplingParams
from worker.engine.step_report import Phase, StepReport
from worker.model.fused.fusing import DecoderLayers
from worker.model.kv_cache import AttentionKernels
from worker.model.layers.quantization import Quantization

__all__ = [
    "AdapterMode",
    "AttentionKernels",
    "Completion",
    "CudaGraphs",
    "DecoderLayers",
    "Engine",
    "EngineBroken",
    "EngineConfig",
    "Executor",
    "FailureCause",
    "FinishReason",
    "GenerationFailed",
    "Output",
    "Phase",
    "PromptScores",
    "Quantization",
    "Request",
    "RequestFailed",
    "SamplingParams",
    "StepReport",
    "TokenOutput",
    "generate",
]
