"""Load a checkpoint onto one device: weights, KV cache and runner."""

import ctypes
import math
import platform
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from worker.cgroups import cpu_quota
from worker.engine.config import EngineConfig
from worker.engine.execution.cuda_graphs import capture_decoding
from worker.engine.execution.executor import Executor
from worker.engine.execution.static_decoding import StaticDecoder
from worker.engine.execution.torch_runner import ModelRunner, Runner
from worker.engine.loading.adapters import load_adapters, look_for_adapters
from worker.engine.loading.calibration import MeasurableRunner, choose_limits, known_limits
from worker.engine.loading.load_plan import choose_variant
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LimitChoice, LoadPhase, LoadReport
from worker.engine.loading.step_limits import lower_to_blocks
from worker.engine.memory.host_forecast import HostForecast, LoadVariant
from worker.engine.memory.kv_cache_size import choose_num_blocks, free_memory
from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.checkpoint.linear_weights import LinearWeights
from worker.model.checkpoint.weights import LoadingPlan, load_weights, plan_loading
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.falcon import UNSPLIT, FalconForCausalLM
from worker.model.fused.fusing import fuse_layers
from worker.model.layers.packed_linear import PackedLinear, can_pack, replace_linears
from worker.model.layers.quantization import Quantization
from worker.model.lora import ServedAdapter
from worker.model.quantized_linears import quantize_linears, quantized_weights, weight_bytes
from worker.model.tensor_parallel import TensorParallel

# torch's own choice, read before a thread narrows it.
_DEFAULT_NUM_THREADS = torch.get_num_threads()

# glibc's malloc returns a freed buffer to the system only above a threshold. By default it raises
# the threshold with use, up to 32 MiB. Loading would keep the memory of temporary copies, up to the
# size of the model. A step would pay a page fault for every 4 KiB of each larger buffer.
# So loading sets a low threshold, and the steps set a high one.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE_BYTES = 2**20
_KEPT_BYTES = 2**30
_MOST_OF_OLD_GLIBC = 2**25  # what versions before 2.35 take for the threshold at most


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    runner: Runner
    model_config: ModelConfig
    config: EngineConfig  # with the chosen limits
    num_torch_threads: int  # for the thread that runs the steps
    report: LoadReport
    adapters: Collection[str] = ()  # names that requests may give; the runner's, if it changes them
    # The reason, once a process is lost.
    process_failure: Future[str] = field(default_factory=Future)
    decoder: StaticDecoder | None = None  # of the runner


def load_runner(options: LoadOptions) -> LoadedRunner:
    """Load a whole network onto one device.

    Raises CheckpointError; ValueError, before a weight is read, for an unsupported dtype, device or
    executor, and for a model that the host's memory cannot hold.
    """
    target, report = parse_device(options.device), LoadReport()
    device_map = DeviceMap(target)
    folders = look_for_adapters(options.adapters_dir)
    plan = plan_model(options.source, report).following(options.progress)
    if known := known_limits(options.config, plan.model.config, target):
        options = replace(options, config=known.config)
    report.forecast = forecast = choose_variant(plan, options, target, folders)
    model, unread = read_model(plan, forecast.variant, report, device_map)
    adapters = load_adapters(folders, options.adapter_mode, model, device_map, unread)
    if forecast.variant.executor is Executor.OPENVINO:
        loaded = _load_openvino(model, unread, options, forecast, report)
    else:
        with report.timed(LoadPhase.PREPARE):
            prepare_model(model, unread, options.quantization, target)
        loaded = load_torch(model, options, forecast, adapters, report)
    if target.type == "cpu":
        keep_freed_memory()  # of the steps, not of whole weights
    return loaded


def plan_model(source: str, report: LoadReport) -> LoadingPlan:
    """Find a checkpoint and check its headers; record the time of both phases."""
    with report.timed(LoadPhase.RESOLVE):
        folder = resolve_checkpoint(source)
    with report.timed(LoadPhase.HEADERS):
        return plan_loading(folder)


def read_model(
    plan: LoadingPlan,
    variant: LoadVariant,
    report: LoadReport,
    device_map: DeviceMap,
    parallel: TensorParallel = UNSPLIT,
) -> tuple[FalconForCausalLM, LinearWeights | None]:
    """Read the weights of a plan. Weights to be quantized stay in the files until then."""
    return_freed_memory()
    dtype, quantization = variant.dtype, variant.quantization
    names = quantized_weights(plan.model, quantization)
    target = DeviceMap(torch.device("cpu")) if quantization else device_map
    with report.timed(LoadPhase.WEIGHTS):
        model = load_weights(plan, dtype=dtype, device_map=target, parallel=parallel, unread=names)
    report.read_bytes = plan.num_read_bytes(model)
    embeddings = model.transformer.word_embeddings.weight.dtype
    report.weight_bytes = weight_bytes(model, dtype, quantization, embeddings).total
    unread = LinearWeights(plan, model, dtype=dtype, parallel=parallel) if quantization else None
    return model, unread


def load_torch(
    model: FalconForCausalLM,
    options: LoadOptions,
    forecast: HostForecast,
    adapters: dict[str, ServedAdapter],
    report: LoadReport,
) -> LoadedRunner:
    """Allocate the KV cache of a network that is on its device; return a runner for both."""
    fuse_layers(model, options.layers)
    num_threads = _choose_num_threads(options, model.config)
    block_size = options.config.block_size
    make_runner = partial(
        ModelRunner.with_cache,
        model,
        block_size=block_size,
        adapters=adapters,
        attention=options.attention,
        num_padding_blocks=_num_padding_blocks(model),
    )
    if model.device.type == "cpu":
        report.num_threads = num_threads
    loaded = _start(
        make_runner,
        model,
        options,
        forecast,
        report,
        num_threads=num_threads,
        num_torch_threads=num_threads,
    )
    assert isinstance(loaded.runner, ModelRunner)
    with report.timed(LoadPhase.WARM_UP):
        decoder = capture_decoding(loaded.runner, loaded.config, options.cuda_graphs)
    return replace(loaded, adapters=adapters, decoder=decoder)


def _num_padding_blocks(model: FalconForCausalLM) -> int:
    """Return 1 where decoding steps may be captured: their padding has a block of its own."""
    return int(model.device.type == "cuda" and len(set(model.layer_devices)) == 1)


def _start(
    make_runner: Callable[..., MeasurableRunner],
    model: FalconForCausalLM,
    options: LoadOptions,
    forecast: HostForecast,
    report: LoadReport,
    *,
    num_threads: int,
    num_torch_threads: int,
) -> LoadedRunner:
    """Choose the open limits, allocate the KV cache that they need, and warm the runner up."""
    kv_dtype = forecast.variant.cache_dtype
    with report.timed(LoadPhase.CALIBRATION):
        limits = choose_limits(
            options.config,
            model,
            make_runner,
            num_threads=num_threads,
            num_torch_threads=num_torch_threads,
        )
    with report.timed(LoadPhase.KV_CACHE):
        num_blocks = choose_num_blocks(
            limits.config,
            model.config,
            kv_dtype,
            model.device,
            free_bytes=free_memory(model.device, options.memory),
            step_bytes=forecast.step_bytes,
        )
        runner = make_runner(num_blocks=num_blocks)
    config = record_limits(limits, num_blocks, report)
    with report.timed(LoadPhase.WARM_UP):
        runner.warm_up(config)
    report.record_memory(model.config, config, kv_dtype, num_blocks=num_blocks)
    return LoadedRunner(runner, model.config, config, num_torch_threads, report)


def record_limits(limits: LimitChoice, num_blocks: int, report: LoadReport) -> EngineConfig:
    """Lower the rows, if open, to what the KV cache holds; record the limits and return them."""
    config = lower_to_blocks(limits.config, num_blocks)
    report.limits = replace(limits, config=config)
    return config


def prepare_model(
    model: FalconForCausalLM,
    unread: LinearWeights | None,
    quantization: Quantization | None,
    device: torch.device,
) -> None:
    """Move the model to `device`, read and quantize what is unread, and pack weights for a CPU."""
    if unread and quantization:
        quantize_linears(model, quantization, device, unread.read)
    model.to(device)
    if device.type == "cpu" and can_pack(model.dtype):
        replace_linears(model, PackedLinear)  # the unquantized layers


def _load_openvino(
    model: FalconForCausalLM,
    unread: LinearWeights | None,
    options: LoadOptions,
    forecast: HostForecast,
    report: LoadReport,
) -> LoadedRunner:
    from worker.engine.execution.openvino_runner import CompiledFalcon, OpenVinoRunner
    from worker.model.openvino_falcon import QuantizedWeights

    kind = options.quantization
    num_threads = _choose_num_threads(options, model.config)
    with report.timed(LoadPhase.PREPARE):
        falcon = CompiledFalcon.compile(
            model,
            num_threads=num_threads,
            quantized=QuantizedWeights.of(model, kind, unread.read) if kind and unread else None,
            kv_dtype=forecast.variant.cache_dtype,
        )
    report.num_threads = num_threads
    return _start(
        partial(OpenVinoRunner, falcon),
        model,
        options,
        forecast,
        report,
        num_threads=num_threads,
        num_torch_threads=1,  # a pool of torch would compete with OpenVINO's for the cores
    )


def _choose_num_threads(options: LoadOptions, model_config: ModelConfig) -> int:
    """Return the setting; else one for a small model, or torch's choice within the CPU quota."""
    most = math.ceil(cpu_quota() or _DEFAULT_NUM_THREADS)
    return options.num_threads or (1 if model_config.is_small else min(most, _DEFAULT_NUM_THREADS))


def parse_device(name: str) -> torch.device:
    """Parse cpu, cuda or cuda:N. Raises ValueError if this machine has no such device."""
    device = parse_kind(name)
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= num_devices:
        raise ValueError(
            f"device {name} does not exist: this machine has {num_devices} of its kind"
        )
    return device


def parse_kind(name: str) -> torch.device:
    """Parse the name of a device that this machine need not have."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or name == kind):
        raise ValueError(f"device must be cpu, cuda or cuda:N, not {name}")
    return torch.device(name)


def return_freed_memory() -> None:
    """Make malloc return every freed buffer above 1 MiB, where libc is glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_freed_memory() -> None:
    """Let malloc keep up to a gigabyte of freed memory, where libc is glibc."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES):
            libc.mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLD_GLIBC)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
