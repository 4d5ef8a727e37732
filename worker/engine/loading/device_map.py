"""Loads a network whose decoder layers lie on several devices of one process, behind one runner.

For models that one device cannot hold and whose shapes tensor parallelism cannot split.
"""

from dataclasses import replace

import torch

from worker.engine.loading.backend import Executor
from worker.engine.loading.load_plan import choose_way, wanted_dtypes
from worker.engine.loading.lora import load_adapters, look_for_adapters
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LoadReport
from worker.engine.loading.single_device import (
    LoadedRunner,
    load_torch,
    parse_device,
    plan_model,
    read_model,
)
from worker.engine.loading.spreading import spread
from worker.engine.memory.kv_cache_size import free_memory
from worker.model.checkpoint.weights import LoadingPlan
from worker.model.device_map import DeviceMap


def load_spread(options: LoadOptions) -> LoadedRunner:
    """`load_runner` for a network laid out by a device map: "auto" takes all GPUs that there are.

    A map of one's own needs `config.num_blocks`. Raises ValueError, too, where the memory of all
    GPUs together will not do.
    """
    _check(options)
    folders = look_for_adapters(options.adapters_dir)
    report = LoadReport()
    plan = plan_model(options.source, report)
    device_map = options.device_map
    if not isinstance(device_map, DeviceMap):
        device_map, num_blocks = _spread_over_gpus(plan, options)
        options = replace(options, config=replace(options.config, num_blocks=num_blocks))
    report.forecast = forecast = choose_way(plan, options, device_map.main, folders)
    model = read_model(plan, forecast.way, report, device_map)
    adapters = load_adapters(folders, options.adapter_mode, model, device_map)
    return load_torch(model, options, forecast, adapters, report)


def _check(options: LoadOptions) -> None:
    """Raise ValueError for what does not go together, before anything is read."""
    if options.executor is Executor.OPENVINO or options.quantization:
        raise ValueError("device_map needs executor torch and whole weights, not 8-bit ones")
    if isinstance(options.device_map, DeviceMap):
        if options.config.num_blocks is None:
            raise ValueError("a device_map of one's own needs a number of KV blocks")
        return
    if options.device != "cuda":
        raise ValueError(f"device_map auto needs device cuda, all of them, not {options.device}")
    parse_device(options.device)


def _spread_over_gpus(plan: LoadingPlan, options: LoadOptions) -> tuple[DeviceMap, int]:
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return spread(
        plan.model.config,
        options.config,
        dtype=wanted_dtypes(options.dtype, plan.dtype, gpus[0])[0],
        free_bytes=[free_memory(gpu) for gpu in gpus],
    )
