"""Run Falcon models from Python: `from falconer import Engine, SamplingParams, generate`.

A name is loaded when it is first used, so `import falconer` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.engine import (
        AdapterMode,
        Completion,
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
    "AdapterMode",
    "Completion",
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
    "bundled_checkpoint",
    "generate",
]

if not TYPE_CHECKING:  # type checkers reject a misspelt name only if no `__getattr__` is visible

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "worker.model.checkpoint.tiny" if name == "bundled_checkpoint" else "worker.engine"
        return getattr(import_module(module), name)

    def __dir__() -> list[str]:
        return sorted(__all__)
