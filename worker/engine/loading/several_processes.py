"""Load a network with tensor parallelism: one part per process and device, behind one runner.

For models that one device cannot hold or runs too slowly: falcon-40b on 2, 4 or 8 GPUs.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from worker.engine.execution.executor import Executor
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.loading.adapters import load_adapters, look_for_adapters
from worker.engine.loading.calibration import fixed_limits
from worker.engine.loading.load_plan import choose_variant
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LimitChoice, LoadPhase, LoadReport
from worker.engine.loading.single_device import (
    LoadedRunner,
    keep_freed_memory,
    parse_device,
    plan_model,
    prepare_model,
    read_model,
    record_limits,
)
from worker.engine.memory.host_forecast import HostForecast
from worker.engine.memory.kv_cache_size import choose_num_blocks, free_memory
from worker.engine.tensor_parallel.processes import RankProcesses, free_port
from worker.engine.tensor_parallel.rank_process import READY, STARTED, DriverLink, Rendezvous
from worker.engine.tensor_parallel.runner import DRIVER, TensorParallelRunner, run_steps
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.device_map import DeviceMap
from worker.model.falcon import FalconForCausalLM
from worker.model.fused.fusing import fuse_layers
from worker.model.lora import ServedAdapter
from worker.model.tensor_parallel import TensorParallel

# The thread that samples does not compute the layers: a second pool of OpenMP threads would slow
# down both (decision 0006).
SAMPLING_THREADS = 1


@dataclass(frozen=True, slots=True)
class PartLoader:
    """Load the part of one rank; sent to every process."""

    options: LoadOptions  # with the config of `limits`
    limits: LimitChoice
    forecast: HostForecast
    device_type: str
    num_threads: int
    adapters: list[AdapterFolder]

    def load(
        self, parallel: TensorParallel, report: LoadReport
    ) -> tuple[FalconForCausalLM, dict[str, ServedAdapter]]:
        """Load this rank's part of the network and of the adapters that are served."""
        name = "cpu" if self.device_type == "cpu" else f"{self.device_type}:{parallel.rank}"
        device = parse_device(name)
        device_map = DeviceMap(device)
        plan = plan_model(self.options.source, report).following(self.options.progress)
        model, unread = read_model(plan, self.forecast.variant, report, device_map, parallel)
        mode = self.options.adapter_mode
        adapters = load_adapters(self.adapters, mode, model, device_map, unread, parallel)
        with report.timed(LoadPhase.PREPARE):
            prepare_model(model, unread, self.options.quantization, device)
            fuse_layers(model, self.options.layers)
        if self.device_type == "cpu":
            keep_freed_memory()
        return model, adapters

    def count_blocks(self, model: FalconForCausalLM, size: int) -> int:
        """Return how many KV cache blocks fit with this part of `size` parts."""
        config = self.options.config
        return choose_num_blocks(
            config,
            model.config,
            model.dtype,
            model.device,
            free_bytes=free_memory(model.device, self.options.memory, num_parts=size),
            num_parts=size,
            step_bytes=self.forecast.step_bytes,
        )

    def make_runner(
        self, model: FalconForCausalLM, adapters: dict[str, ServedAdapter], num_blocks: int
    ) -> ModelRunner:
        return ModelRunner.with_cache(
            model,
            num_blocks=num_blocks,
            block_size=self.options.config.block_size,
            adapters=adapters,
            attention=self.options.attention,
        )


def load_parallel(options: LoadOptions) -> LoadedRunner:
    """Load a network in parts: the first in this process, each other one in a process of its own.

    `device` is a kind of device; rank i takes number i. `num_threads` is per process, None is one.
    Raises as `load_runner`, ValueError if the network does not divide, and ProcessLost, with the
    error, if a process could not load its part, ended or froze.
    """
    loader, size = _plan(options), options.tensor_parallel
    rendezvous = Rendezvous(free_port(), size, "gloo" if loader.device_type == "cpu" else "nccl")
    processes, report = RankProcesses(partial(_serve, loader), rendezvous), LoadReport()
    report.forecast = loader.forecast
    try:
        processes.wait_for(STARTED)
        processes.run(partial(torch.set_num_threads, loader.num_threads))
        processes.run(partial(rendezvous.join, DRIVER))
        model, adapters = processes.run(partial(loader.load, TensorParallel(DRIVER, size), report))
        counts = processes.wait_for(READY)
        with report.timed(LoadPhase.KV_CACHE):
            num_blocks = min(loader.count_blocks(model, size), *counts)
            processes.send(num_blocks)
            runner = TensorParallelRunner(
                loader.make_runner(model, adapters, num_blocks), processes
            )
        config = record_limits(loader.limits, num_blocks, report)
        with report.timed(LoadPhase.WARM_UP):
            runner.warm_up(config)
    except BaseException:
        processes.stop()
        raise
    report.record_memory(
        model.config, config, model.dtype, num_blocks=runner.num_blocks, num_parts=size
    )
    return LoadedRunner(
        runner, model.config, config, SAMPLING_THREADS, report, tuple(adapters), processes.lost
    )


def _plan(options: LoadOptions) -> PartLoader:
    """Check the options and the headers of the checkpoint, before a process is started."""
    target = parse_device(options.device)
    if options.executor is Executor.OPENVINO or target.index is not None:
        raise ValueError("tensor_parallel needs executor torch and a device without a number")
    plan = plan_model(options.source, LoadReport())
    TensorParallel(size=options.tensor_parallel).check(plan.model.config)
    folders = look_for_adapters(options.adapters_dir)
    limits = fixed_limits(options.config, target, "with tensor_parallel")
    options = replace(options, config=limits.config)
    forecast = choose_variant(plan, options, target, folders)
    return PartLoader(options, limits, forecast, target.type, options.num_threads or 1, folders)


def _serve(
    loader: PartLoader, parallel: TensorParallel, rendezvous: Rendezvous, link: DriverLink
) -> None:
    """Load the part of a rank above 0 and compute its steps until the driver ends."""
    torch.set_num_threads(loader.num_threads)
    rendezvous.join(parallel.rank)
    model, adapters = loader.load(parallel, LoadReport())
    link.send_ready(loader.count_blocks(model, parallel.size))
    run_steps(loader.make_runner(model, adapters, link.receive()), link)
