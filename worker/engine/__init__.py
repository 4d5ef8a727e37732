"""The continuous-batching engine: `Engine.add`, `.abort`, `.step`."""

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.outputs import Blame, FinishReason, Output, RequestFailed, TokenOutput
from worker.engine.params import SamplingParams
from worker.engine.probe import EngineBroken
from worker.engine.request import Request

__all__ = [
    "Blame",
    "Engine",
    "EngineBroken",
    "EngineConfig",
    "FinishReason",
    "Output",
    "Request",
    "RequestFailed",
    "SamplingParams",
    "TokenOutput",
]
