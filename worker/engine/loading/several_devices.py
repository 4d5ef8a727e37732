"""Load a network with its decoder layers spread over devices of one process, behind one runner.

`device_map="auto"` places layers as accelerate does, the KV cache included.

For models that one device cannot hold and that tensor parallelism cannot split.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch

from worker.engine.config import EngineConfig
from worker.engine.execution.executor import Executor
from worker.engine.loading.adapters import load_adapters, look_for_adapters
from worker.engine.loading.dtypes import wanted_dtypes
from worker.engine.loading.load_plan import choose_variant
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LoadReport
from worker.engine.loading.single_device import (
    LoadedRunner,
    load_torch,
    parse_device,
    plan_model,
    read_model,
)
from worker.engine.memory.kv_cache_size import SHARE_OF_FREE_MEMORY, free_memory
from worker.model.checkpoint.weights import LoadingPlan
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM

_GIB = 2**30
_KEPT_FREE = _GIB  # on each GPU, for activations: a small KV cache leaves too little
_UNPLACED = "disk"  # accelerate's name for layers that fit on no device


def load_spread(options: LoadOptions) -> LoadedRunner:
    """Load a network by a device map; "auto" takes all GPUs.

    Any other map needs `config.num_blocks`. Raises as `load_runner`, and ValueError if the memory
    of all GPUs together is too small.
    """
    _check(options)
    folders = look_for_adapters(options.adapters_dir)
    report = LoadReport()
    plan = plan_model(options.source, report).following(options.progress)
    device_map = options.device_map
    if not isinstance(device_map, DeviceMap):
        device_map, num_blocks = _spread_over_gpus(plan, options)
        options = replace(options, config=replace(options.config, num_blocks=num_blocks))
    report.forecast = forecast = choose_variant(plan, options, device_map.main, folders)
    model, unread = read_model(plan, forecast.variant, report, device_map)
    adapters = load_adapters(folders, options.adapter_mode, model, device_map, unread)
    return load_torch(model, options, forecast, adapters, report)


def _check(options: LoadOptions) -> None:
    """Raise ValueError for options that exclude each other, before anything is read."""
    if options.executor is Executor.OPENVINO or options.quantization:
        raise ValueError("with --device-map, --executor must be torch and --quantization unset")
    if isinstance(options.device_map, DeviceMap):
        if options.config.num_blocks is None:
            raise ValueError("num_blocks must be set with a device_map other than auto")
        return
    if options.device != "cuda":
        raise ValueError(f"with --device-map auto, --device must be cuda, not {options.device}")
    parse_device(options.device)


def _spread_over_gpus(plan: LoadingPlan, options: LoadOptions) -> tuple[DeviceMap, int]:
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return spread(
        plan.model.config,
        options.config,
        dtype=next(iter(wanted_dtypes(options.dtype, plan, gpus[0]))),
        free_bytes=[free_memory(gpu) for gpu in gpus],
    )


def spread(
    model_config: ModelConfig,
    config: EngineConfig,
    *,
    dtype: torch.dtype,
    free_bytes: Sequence[int],
) -> tuple[DeviceMap, int]:
    """Place the layers on GPUs 0, 1, … with `free_bytes` each; choose the number of KV blocks.

    GPUs are filled in order; all but the layers is on GPU 0. The number of blocks is that of
    `config` or, if it has none, what its rows need, or as many as leave room for every layer.
    Raises ValueError, with the missing bytes, if the memory is too small.
    """
    sizes = _LayerSizes(model_config, config.block_size, dtype, free_bytes)
    num_blocks = config.num_blocks
    if num_blocks is None:
        most = config.max_rows * -(-model_config.context_length // config.block_size)
        num_blocks = max(1, bisect_left(range(1, most + 1), 1, key=sizes.missing_bytes))
    if missing := sizes.missing_bytes(num_blocks):
        raise ValueError(
            f"weights and {num_blocks} KV blocks do not fit on {len(free_bytes)} GPU(s): "
            f"{missing / _GIB:.1f} GiB are missing"
        )
    return _to_map(sizes.place(num_blocks)), num_blocks


class _LayerSizes:
    """A network on the meta device, and the free bytes for its layers on each GPU."""

    def __init__(
        self,
        model_config: ModelConfig,
        block_size: int,
        dtype: torch.dtype,
        free_bytes: Sequence[int],
    ) -> None:
        with torch.device("meta"):
            self._layers = FalconForCausalLM(model_config).to(dtype).transformer.h
        num_layers = len(self._layers)
        # KV blocks may take only a share of the memory that weights leave: count them as larger.
        kv_bytes = block_size * model_config.kv_bytes_per_token(dtype) // num_layers
        self._block_bytes = int(kv_bytes / SHARE_OF_FREE_MEMORY["cuda"])
        self._weight_bytes = sum(weight.nbytes for weight in self._layers[0].parameters())
        rest = model_config.num_parameters * dtype.itemsize - num_layers * self._weight_bytes
        self._room = [num_bytes - _KEPT_FREE for num_bytes in free_bytes]
        self._room[0] -= rest

    def place(self, num_blocks: int) -> list[int | str]:
        """Return the GPU number, or `_UNPLACED`, that accelerate gives to each layer."""
        from accelerate import infer_auto_device_map  # slow to import, and rarely needed

        layer_bytes = self._layer_bytes(num_blocks)
        for layer in self._layers:
            num_kv_bytes = layer_bytes - self._weight_bytes
            kv_cache = torch.empty(num_kv_bytes, dtype=torch.uint8, device="meta")
            layer.register_buffer("kv_cache", kv_cache)
        device_map = infer_auto_device_map(
            self._layers,
            max_memory=dict(enumerate(self._room)),
            no_split_module_classes=[FalconDecoderLayer.__name__],
            clean_result=False,
            offload_buffers=True,  # no warning: `_UNPLACED` ends in an error
        )
        return list(device_map.values())

    def missing_bytes(self, num_blocks: int) -> int:
        """Return the bytes that do not fit with this number of KV blocks; 0 if all fits."""
        num_left = self.place(num_blocks).count(_UNPLACED)
        return num_left * self._layer_bytes(num_blocks) + max(0, -self._room[0])

    def _layer_bytes(self, num_blocks: int) -> int:
        return self._weight_bytes + num_blocks * self._block_bytes


def _to_map(places: list[int | str]) -> DeviceMap:
    layers: dict[range, torch.device] = {}
    for gpu, run in groupby(range(len(places)), places.__getitem__):
        own = list(run)
        layers[range(own[0], own[-1] + 1)] = torch.device("cuda", int(gpu))
    return DeviceMap(torch.device("cuda", 0), layers)
