"""Run Falcon models from Python, or call a service that runs them.

`from falconer import Engine, SamplingParams, generate` is the engine, `from falconer import Client`
the client of the HTTP interface. A name is loaded when it is first used, so neither `import
falconer` nor the client imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falconer.client import (
        AccessDenied,
        ApiError,
        AsyncBatch,
        AsyncClient,
        AsyncJob,
        Batch,
        BatchFailed,
        BatchInfo,
        BatchResult,
        Client,
        Conflict,
        FileInfo,
        InvalidRequest,
        Job,
        JobFailed,
        JobInfo,
        NotFound,
        RequestFields,
        Retries,
        TextDelta,
        TooManyRequests,
        Unavailable,
        WaitTimeout,
    )
    from worker.engine import (
        AdapterMode,
        AttentionKernels,
        Completion,
        CudaGraphs,
        DecoderLayers,
        Engine,
        EngineBroken,
        EngineConfig,
        Executor,
        FailureCause,
        FinishReason,
        GenerationFailed,
        Output,
        Phase,
        PromptScores,
        Quantization,
        Request,
        RequestFailed,
        SamplingParams,
        StepReport,
        TokenOutput,
        generate,
    )
    from worker.model.checkpoint.tiny import bundled_checkpoint

__all__ = [
    "AccessDenied",
    "AdapterMode",
    "ApiError",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "AttentionKernels",
    "Batch",
    "BatchFailed",
    "BatchInfo",
    "BatchResult",
    "Client",
    "Completion",
    "Conflict",
    "CudaGraphs",
    "DecoderLayers",
    "Engine",
    "EngineBroken",
    "EngineConfig",
    "Executor",
    "FailureCause",
    "FileInfo",
    "FinishReason",
    "GenerationFailed",
    "InvalidRequest",
    "Job",
    "JobFailed",
    "JobInfo",
    "NotFound",
    "Output",
    "Phase",
    "PromptScores",
    "Quantization",
    "Request",
    "RequestFailed",
    "RequestFields",
    "Retries",
    "SamplingParams",
    "StepReport",
    "TextDelta",
    "TokenOutput",
    "TooManyRequests",
    "Unavailable",
    "WaitTimeout",
    "bundled_checkpoint",
    "generate",
]

if not TYPE_CHECKING:  # type checkers reject a misspelt name only if no `__getattr__` is visible

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "bundled_checkpoint":
            return getattr(import_module("worker.model.checkpoint.tiny"), name)
        client = import_module("falconer.client")
        return getattr(client if name in client.__all__ else import_module("worker.engine"), name)

    def __dir__() -> list[str]:
        return sorted(__all__)
