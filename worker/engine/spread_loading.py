"""Loads a network whose decoder layers lie on several devices of one process, behind one runner.

For models that one device cannot hold and whose shapes tensor parallelism cannot split.
"""

from dataclasses import replace

import torch

from worker.engine.adapters import load_adapters, look_for_adapters
from worker.engine.executor import Executor
from worker.engine.kv_budget import free_memory
from worker.engine.load_options import LoadOptions
from worker.engine.load_report import LoadReport
from worker.engine.loading import (
    LoadedRunner,
    load_torch,
    parse_device,
    parse_dtype,
    read_model,
)
from worker.engine.spreading import spread
from worker.model.checkpoint import resolve_checkpoint
from worker.model.device_map import DeviceMap
from worker.model.weights import plan_loading


def load_spread(options: LoadOptions) -> LoadedRunner:
    """`load_runner` for a network laid out by a device map: "auto" takes all GPUs that there are.

    A map of one's own needs `config.num_blocks`. Raises ValueError, too, where the memory of all
    GPUs together will not do.
    """
    if options.executor is Executor.OPENVINO or options.quantization:
        raise ValueError("device_map needs executor torch and whole weights, not 8-bit ones")
    folders = look_for_adapters(options.adapters_dir)
    device_map = options.device_map
    if isinstance(device_map, DeviceMap):
        if options.config.num_blocks is None:
            raise ValueError("a device_map of one's own needs a number of KV blocks")
    else:
        device_map, num_blocks = _spread_over_gpus(options)
        options = replace(options, config=replace(options.config, num_blocks=num_blocks))
    report = LoadReport()
    model = read_model(options, report, device_map)
    adapters = load_adapters(folders, options.adapter_mode, model, device_map)
    return load_torch(model, options, adapters, report)


def _spread_over_gpus(options: LoadOptions) -> tuple[DeviceMap, int]:
    if options.device != "cuda":
        raise ValueError(f"device_map auto needs device cuda, all of them, not {options.device}")
    parse_device(options.device)
    plan = plan_loading(resolve_checkpoint(options.source))
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return spread(
        plan.model.config,
        options.config,
        dtype=parse_dtype(options.dtype) or plan.dtype,
        free_bytes=[free_memory(gpu) for gpu in gpus],
    )
