"""Loads a network whose decoder layers lie on several devices of one process, behind one runner.

For models that one device cannot hold and whose shapes tensor parallelism cannot split.
"""

from dataclasses import replace
from typing import Literal

import torch

from worker.engine.adapters import AdapterMode, load_adapters, look_for_adapters
from worker.engine.config import EngineConfig
from worker.engine.executor import Executor
from worker.engine.kv_budget import free_memory
from worker.engine.load_report import LoadReport
from worker.engine.loading import (
    LoadedRunner,
    choose_num_threads,
    load_torch,
    parse_device,
    parse_dtype,
    read_model,
)
from worker.engine.spreading import spread
from worker.model.checkpoint import resolve_checkpoint
from worker.model.device_map import DeviceMap
from worker.model.quantization import Quantization
from worker.model.weights import plan_loading


def load_spread(
    source: str,
    *,
    device_map: Literal["auto"] | DeviceMap,
    config: EngineConfig,
    dtype: str | None = None,
    device: str = "cpu",
    executor: Executor = Executor.AUTO,
    quantization: Quantization | None = None,
    num_threads: int | None = None,
    adapters_dir: str | None = None,
    adapter_mode: AdapterMode = AdapterMode.MERGE,
) -> LoadedRunner:
    """`load_runner` for a network laid out by `device_map`: "auto" takes all GPUs that there are.

    A map of one's own needs `config.num_blocks`. Raises ValueError, too, where the memory of all
    GPUs together will not do.
    """
    if executor is Executor.OPENVINO or quantization:
        raise ValueError("device_map needs executor torch and whole weights, not 8-bit ones")
    folders = look_for_adapters(adapters_dir)
    if device_map == "auto":
        device_map, num_blocks = _spread_over_gpus(source, device, parse_dtype(dtype), config)
        config = replace(config, num_blocks=num_blocks)
    elif config.num_blocks is None:
        raise ValueError("a device_map of one's own needs a number of KV blocks")
    report = LoadReport()
    model = read_model(
        source, report, dtype=parse_dtype(dtype), device_map=device_map, quantization=None
    )
    adapters = load_adapters(folders, adapter_mode, model, device_map)
    num_threads = num_threads or choose_num_threads(model.config)
    return load_torch(model, config, num_threads, adapters, report)


def _spread_over_gpus(
    source: str, device: str, dtype: torch.dtype | None, config: EngineConfig
) -> tuple[DeviceMap, int]:
    if device != "cuda":
        raise ValueError(f"device_map auto needs device cuda, all of them, not {device}")
    parse_device(device)
    plan = plan_loading(resolve_checkpoint(source))
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return spread(
        plan.model.config,
        config,
        dtype=dtype or plan.dtype,
        free_bytes=[free_memory(gpu) for gpu in gpus],
    )
