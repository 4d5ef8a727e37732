"""From a checkpoint to a runner: device, dtype, executor, weights and a KV cache beside them.

Knows nothing of scheduling.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from worker.engine.execution.torch_runner import ModelRunner, Runner
from worker.engine.loading import allocator
from worker.engine.loading.backend import Executor
from worker.engine.loading.load_plan import choose_way
from worker.engine.loading.lora import load_adapters, look_for_adapters
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LoadPhase, LoadReport
from worker.engine.memory.host_forecast import HostForecast, Way
from worker.engine.memory.kv_cache_size import choose_num_blocks, free_memory
from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.checkpoint.weights import LoadingPlan, load_weights, plan_loading
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.falcon import WHOLE, FalconForCausalLM
from worker.model.layers.packed_linear import PackedLinear, can_pack, replace_linears
from worker.model.layers.quantization import Quantization
from worker.model.layers.quantize import drop_rounded_weights, round_linears, saved_bytes
from worker.model.lora import ServedAdapter
from worker.model.tensor_parallel import TensorParallel

# torch's own choice, read before anybody narrows it for a thread.
_DEFAULT_NUM_THREADS = torch.get_num_threads()
SMALL_MODEL = 20_000_000  # parameters; below, threads wait for each other longer than they work


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """`num_torch_threads` is what torch should use in the thread that runs the steps.

    `adapters` are the names that requests may give. `lost` is resolved, with the reason, when
    another process that the runner needs is lost.
    """

    runner: Runner
    model_config: ModelConfig
    num_torch_threads: int
    report: LoadReport
    adapters: tuple[str, ...] = ()
    lost: Future[str] = field(default_factory=Future)


def load_runner(options: LoadOptions) -> LoadedRunner:
    """Load a whole network onto one device; its threads are what torch has, one for a small model.

    Raises CheckpointError, or ValueError for a dtype, device or executor that cannot be had and
    for what the host's memory cannot hold, before a weight is read.
    """
    target, report = parse_device(options.device), LoadReport()
    device_map = DeviceMap(target)
    folders = look_for_adapters(options.adapters_dir)
    plan = plan_model(options.source, report)
    report.forecast = forecast = choose_way(plan, options, target, folders)
    model = read_model(plan, forecast.way, report, device_map)
    adapters = load_adapters(folders, options.adapter_mode, model, device_map)
    if forecast.way.executor is Executor.OPENVINO:
        loaded = _load_openvino(model, options, forecast, report)
    else:
        with report.timed(LoadPhase.PREPARE):
            prepare_model(model, options.quantization, target)
        loaded = load_torch(model, options, forecast, adapters, report)
    if target.type == "cpu":
        allocator.keep_freed_memory()  # of the steps, not that of whole weights
    return loaded


def plan_model(source: str, report: LoadReport) -> LoadingPlan:
    """Find a checkpoint and check its headers, with the time of each phase in the report."""
    with report.timed(LoadPhase.RESOLVE):
        folder = resolve_checkpoint(source)
    with report.timed(LoadPhase.HEADERS):
        return plan_loading(folder)


def read_model(
    plan: LoadingPlan,
    way: Way,
    report: LoadReport,
    device_map: DeviceMap,
    parallel: TensorParallel = WHOLE,
) -> FalconForCausalLM:
    """Read what the plan names; weights to be rounded stay on the host, no device holds them."""
    allocator.return_freed_memory()
    target = DeviceMap(torch.device("cpu")) if way.quantization else device_map
    with report.timed(LoadPhase.WEIGHTS):
        model = load_weights(plan, dtype=way.dtype, device_map=target, parallel=parallel)
    report.read_bytes = plan.num_read_bytes(model)
    whole_bytes = sum(parameter.nbytes for parameter in model.parameters())
    report.weight_bytes = whole_bytes - saved_bytes(model, model.dtype, way.quantization)
    return model


def load_torch(
    model: FalconForCausalLM,
    options: LoadOptions,
    forecast: HostForecast,
    adapters: Mapping[str, ServedAdapter],
    report: LoadReport,
) -> LoadedRunner:
    """The KV cache beside a network that is in its place, and a runner for both."""
    config = options.config
    with report.timed(LoadPhase.KV_CACHE):
        num_blocks = choose_num_blocks(
            config,
            model.config,
            model.dtype,
            model.device,
            free_bytes=free_memory(model.device, options.memory),
            step_bytes=forecast.step_bytes,
        )
        runner = ModelRunner.with_cache(
            model, num_blocks=num_blocks, block_size=config.block_size, adapters=adapters
        )
    with report.timed(LoadPhase.WARM_UP):
        runner.warm_up()
    report.note_memory(model.config, config, model.dtype, num_blocks=num_blocks)
    num_threads = _choose_num_threads(options, model.config)
    return LoadedRunner(runner, model.config, num_threads, report, tuple(adapters))


def prepare_model(
    model: FalconForCausalLM, quantization: Quantization | None, device: torch.device
) -> None:
    """Put the model on `device`, weights laid out as it multiplies them best, rounded if wanted."""
    if quantization:
        round_linears(model, quantization, device)
    model.to(device)
    if device.type == "cpu" and model.dtype == torch.float32 and can_pack():
        replace_linears(model, PackedLinear)  # those that are left


def _load_openvino(
    model: FalconForCausalLM, options: LoadOptions, forecast: HostForecast, report: LoadReport
) -> LoadedRunner:
    from worker.engine.execution.openvino_runner import OpenVinoRunner

    config, quantization = options.config, options.quantization
    num_threads = _choose_num_threads(options, model.config)
    with report.timed(LoadPhase.PREPARE):
        graph = OpenVinoRunner.compile(model, num_threads=num_threads, quantization=quantization)
        if quantization:
            drop_rounded_weights(model, quantization)  # the graph has its own
    with report.timed(LoadPhase.KV_CACHE):
        num_blocks = choose_num_blocks(
            config,
            model.config,
            torch.float32,
            torch.device("cpu"),
            free_bytes=free_memory(torch.device("cpu"), options.memory),
            step_bytes=forecast.step_bytes,
        )
        runner = OpenVinoRunner(model, graph, num_blocks=num_blocks)
    with report.timed(LoadPhase.WARM_UP):
        runner.warm_up()
    report.note_memory(model.config, config, torch.float32, num_blocks=num_blocks)
    # OpenVINO has threads of its own: a second pool would take the cores from them.
    return LoadedRunner(runner, model.config, num_torch_threads=1, report=report)


def _choose_num_threads(options: LoadOptions, model_config: ModelConfig) -> int:
    is_small = model_config.num_parameters < SMALL_MODEL
    return options.num_threads or (1 if is_small else _DEFAULT_NUM_THREADS)


def parse_device(name: str) -> torch.device:
    device = parse_kind(name)
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= num_devices:
        raise ValueError(f"device {name} is not there: this machine has {num_devices} of its kind")
    return device


def parse_kind(name: str) -> torch.device:
    """Like `parse_device`, of a device that need not be there."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or name == kind):
        raise ValueError(f"device must be cpu, cuda or cuda:N, not {name}")
    return torch.device(name)
