"""What to load, and how: the options that every way of loading a network understands."""

from dataclasses import dataclass, field
from typing import Literal

from worker.engine.config import EngineConfig
from worker.engine.loading.backend import Executor
from worker.engine.loading.lora import AdapterMode
from worker.model.device_map import DeviceMap
from worker.model.layers.quantization import Quantization


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`source` is a local folder or hub id.

    `dtype` None takes the checkpoint's; "auto" does so on a GPU, and on a CPU takes float32, or
    bfloat16 where only that fits. `memory` bounds what this process and its followers take of the
    host's memory, in bytes; None takes what is free.

    `num_threads` None leaves the choice to the way of loading; `tensor_parallel` is a number of
    processes; `adapters_dir` is a folder of LoRA adapters. Nothing is checked here: whoever loads
    raises ValueError for what it cannot use.
    """

    source: str
    config: EngineConfig = field(default_factory=EngineConfig)
    dtype: str | None = None
    device: str = "cpu"
    executor: Executor = Executor.AUTO
    quantization: Quantization | None = None
    num_threads: int | None = None
    tensor_parallel: int = 1
    device_map: Literal["auto"] | DeviceMap | None = None
    adapters_dir: str | None = None
    adapter_mode: AdapterMode = AdapterMode.MERGE
    memory: int | None = None
