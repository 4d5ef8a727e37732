"""Loads a network in parts, one to a process and device, behind one runner.

For models that one device cannot hold, and for more speed than one has: falcon-40b on 2, 4 or 8.
"""

from dataclasses import dataclass
from functools import partial

import torch

from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.loading import allocator
from worker.engine.loading.backend import Executor
from worker.engine.loading.load_plan import choose_way
from worker.engine.loading.lora import load_adapters, look_for_adapters
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LoadPhase, LoadReport
from worker.engine.loading.single_device import (
    LoadedRunner,
    parse_device,
    plan_model,
    prepare_model,
    read_model,
)
from worker.engine.memory.host_forecast import HostForecast
from worker.engine.memory.kv_cache_size import choose_num_blocks, free_memory
from worker.engine.tensor_parallel.processes import Followers, free_port
from worker.engine.tensor_parallel.runner import LEADER, LeadingRunner, follow
from worker.engine.tensor_parallel.worker_process import HELLO, READY, LeaderLink, Meeting
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.device_map import DeviceMap
from worker.model.falcon import FalconForCausalLM
from worker.model.lora import ServedAdapter
from worker.model.tensor_parallel import TensorParallel

# The thread that samples is not the one that computes the layers: a second pool of OpenMP threads
# would slow down both (decision 0006).
SAMPLING_THREADS = 1


@dataclass(frozen=True, slots=True)
class PartLoader:
    """What every process needs to load its part; sent to the followers."""

    options: LoadOptions
    forecast: HostForecast
    device_type: str
    num_threads: int
    adapters: list[AdapterFolder]

    def load(
        self, parallel: TensorParallel, report: LoadReport
    ) -> tuple[FalconForCausalLM, dict[str, ServedAdapter]]:
        """The part of the network, and of the adapters that are served beside it."""
        name = "cpu" if self.device_type == "cpu" else f"{self.device_type}:{parallel.rank}"
        device = parse_device(name)
        device_map = DeviceMap(device)
        plan = plan_model(self.options.source, report)
        model = read_model(plan, self.forecast.way, report, device_map, parallel)
        mode = self.options.adapter_mode
        adapters = load_adapters(self.adapters, mode, model, device_map, parallel)
        with report.timed(LoadPhase.PREPARE):
            prepare_model(model, self.options.quantization, device)
        if self.device_type == "cpu":
            allocator.keep_freed_memory()
        return model, adapters

    def count_blocks(self, model: FalconForCausalLM, size: int) -> int:
        """How many blocks of KV cache fit beside this part of `size`."""
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
        )


def load_parallel(options: LoadOptions) -> LoadedRunner:
    """`load_runner` for a network in parts: the first here, a process for each other one.

    `device` is a kind of device, of which part i takes number i; `num_threads` are those of each
    process, None takes one. Raises ValueError, too, where the network does not divide, and
    ProcessLost with the words of a process that could not load its part, ended or froze.
    """
    target, size = parse_device(options.device), options.tensor_parallel
    if options.executor is Executor.OPENVINO or target.index is not None:
        raise ValueError("tensor_parallel needs executor torch and a device without a number")
    plan = plan_model(options.source, LoadReport())
    TensorParallel(size=size).check(plan.model.config)
    folders = look_for_adapters(options.adapters_dir)
    forecast = choose_way(plan, options, target, folders)
    loader = PartLoader(options, forecast, target.type, options.num_threads or 1, folders)
    meeting = Meeting(free_port(), size, "gloo" if target.type == "cpu" else "nccl")
    followers, report = Followers(partial(_serve, loader), meeting), LoadReport()
    report.forecast = forecast
    try:
        followers.expect(HELLO)
        followers.run(partial(torch.set_num_threads, loader.num_threads))
        followers.run(partial(meeting.join, LEADER))
        model, adapters = followers.run(partial(loader.load, TensorParallel(LEADER, size), report))
        counts = followers.expect(READY)
        with report.timed(LoadPhase.KV_CACHE):
            num_blocks = min(loader.count_blocks(model, size), *counts)
            followers.send(num_blocks)
            runner = LeadingRunner(loader.make_runner(model, adapters, num_blocks), followers)
        with report.timed(LoadPhase.WARM_UP):
            runner.warm_up()
    except BaseException:
        followers.stop()
        raise
    report.note_memory(
        model.config, options.config, model.dtype, num_blocks=runner.num_blocks, num_parts=size
    )
    return LoadedRunner(
        runner, model.config, SAMPLING_THREADS, report, tuple(adapters), followers.lost
    )


def _serve(
    loader: PartLoader, parallel: TensorParallel, meeting: Meeting, link: LeaderLink
) -> None:
    """The work of a follower, from its first import to the leader's end."""
    torch.set_num_threads(loader.num_threads)
    meeting.join(parallel.rank)
    model, adapters = loader.load(parallel, LoadReport())
    link.ready(loader.count_blocks(model, parallel.size))
    follow(loader.make_runner(model, adapters, link.receive()), link)
