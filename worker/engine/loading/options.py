"""The options for loading a network."""

from dataclasses import dataclass, field
from typing import Literal, TypedDict

from worker.engine.config import EngineConfig
from worker.engine.execution.cuda_graphs import CudaGraphs
from worker.engine.execution.executor import Executor
from worker.engine.loading.adapters import AdapterMode
from worker.model.checkpoint.shards import ReadProgress
from worker.model.device_map import DeviceMap
from worker.model.fused.fusing import DecoderLayers
from worker.model.kv_cache import AttentionKernels
from worker.model.layers.quantization import Quantization


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Nothing is checked here: the loader raises ValueError for what it cannot use."""

    source: str  # a local folder or a hub id
    config: EngineConfig = field(default_factory=EngineConfig)
    # None: the checkpoint's. "auto": the checkpoint's on a GPU; on a CPU bfloat16 for a checkpoint
    # in bfloat16 if the CPU multiplies it; else float32, or bfloat16 where only that fits.
    dtype: str | None = None
    # Of the KV cache. "auto": that of the weights. "int8": rounded, on OpenVINO.
    kv_dtype: Literal["auto", "int8"] = "auto"
    device: str = "cpu"  # cpu, cuda or cuda:N
    executor: Executor = Executor.AUTO
    attention: AttentionKernels = AttentionKernels.AUTO  # on a GPU
    cuda_graphs: CudaGraphs = CudaGraphs.AUTO  # on a GPU
    layers: DecoderLayers = DecoderLayers.FUSED  # on a GPU
    quantization: Quantization | None = None
    num_threads: int | None = None  # of a step on a CPU; None: all, or one for a small model
    tensor_parallel: int = 1  # number of processes, each with its part on a device of its own
    # Spreads the layers over devices of this process; "auto" takes all GPUs.
    device_map: Literal["auto"] | DeviceMap | None = None
    adapters_dir: str | None = None  # folder of LoRA adapters
    adapter_mode: AdapterMode = AdapterMode.MERGE
    # Bytes of the host's memory that this process and its ranks may take; None: what is free. A
    # model that does not fit is refused before a weight is read.
    memory: int | None = None
    progress: ReadProgress = field(default_factory=ReadProgress)  # of reading the weights


class LoadArguments(TypedDict, total=False):
    """The fields of LoadOptions that `Engine.from_pretrained` takes by name."""

    dtype: str | None
    kv_dtype: Literal["auto", "int8"]
    device: str
    executor: Executor
    attention: AttentionKernels
    cuda_graphs: CudaGraphs
    layers: DecoderLayers
    quantization: Quantization | None
    num_threads: int | None
    tensor_parallel: int
    device_map: Literal["auto"] | DeviceMap | None
    adapters_dir: str | None
    adapter_mode: AdapterMode
    memory: int | None
    progress: ReadProgress
