"""Chooses how a network is loaded, by what fits in memory, or refuses it before it is read.

Knows settings and forecasts; reads no weight.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from worker.engine.loading.backend import Executor, choose_executor
from worker.engine.loading.lora import AdapterMode
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.quantization_support import check_quantization
from worker.engine.memory.host_forecast import HostForecast, Way, forecast_host
from worker.host_memory import FreeMemory, format_bytes, free_memory
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.checkpoint.lora import find_weights
from worker.model.checkpoint.weights import EMBEDDINGS, LM_HEAD, LoadingPlan
from worker.model.config import DTYPES
from worker.model.layers.quantization import Quantization

AUTO_DTYPE = "auto"
# In the order of preference. The second also for checkpoints in float16, which CPUs multiply six
# times slower.
CPU_DTYPES = (torch.float32, torch.bfloat16)
# Of the memory that is free, this much is left to others where a smaller way allows it.
_SHARE_LEFT = 0.1


def choose_way(
    plan: LoadingPlan,
    options: LoadOptions,
    device: torch.device,
    adapters: Sequence[AdapterFolder] = (),
    free: FreeMemory | None = None,
) -> HostForecast:
    """The first way that `options` allow and that fits, the most exact and fastest before others.

    `free` None asks the machine. Raises ValueError when there is none: in one line that says what
    would fit.
    """
    choice = _Choice(plan, options, device, adapters)
    forecasts = choice.allowed()
    free = free or free_memory(options.memory)
    for forecast in forecasts:
        row_bytes = forecast.row_bytes if options.config.num_blocks is None else 0
        if forecast.needed_bytes + row_bytes <= (1 - _SHARE_LEFT) * free.num_bytes:
            return forecast
    smallest = min(forecasts, key=lambda forecast: forecast.needed_bytes)
    if smallest.needed_bytes > free.num_bytes:
        raise ValueError(_refusal(choice, smallest, free))
    return smallest


def forecast_ways(
    plan: LoadingPlan, options: LoadOptions, device: torch.device
) -> list[HostForecast]:
    """All that `options` allow, in the order of preference. Raises ValueError if there is none."""
    return _Choice(plan, options, device, ()).allowed()


@dataclass(frozen=True, slots=True)
class _Choice:
    plan: LoadingPlan
    options: LoadOptions
    device: torch.device
    adapters: Sequence[AdapterFolder]

    def allowed(self) -> list[HostForecast]:
        """At least one. Raises ValueError for what goes together nowhere."""
        options = self.options
        ways: dict[Way, None] = {}
        obstacles: list[ValueError] = []
        for dtype in wanted_dtypes(options.dtype, self.plan.dtype, self.device):
            try:
                check_quantization(options.quantization, dtype=dtype, device=self.device)
                ways |= dict.fromkeys(self._ways(dtype, options.executor, options.quantization))
            except ValueError as obstacle:
                obstacles.append(obstacle)
        if not ways:
            raise obstacles[0]
        return [self._forecast(way) for way in ways]

    def others(self) -> Iterator[HostForecast]:
        """What other settings would allow, those nearest to the given ones first."""
        kinds = dict.fromkeys([self.options.quantization, None, Quantization.INT8_WEIGHT_ONLY])
        for quantization in kinds:
            for dtype in CPU_DTYPES:
                if self._is_possible(dtype, quantization):
                    yield from map(self._forecast, self._ways(dtype, Executor.AUTO, quantization))

    def _forecast(self, way: Way) -> HostForecast:
        plan = self.plan
        return forecast_host(
            way,
            plan.model,
            self.options.config,
            device=self.device,
            num_parts=self.options.tensor_parallel,
            adapter_bytes=sum(find_weights(folder).stat().st_size for folder in self.adapters),
            stores_head=plan.origins[LM_HEAD] != plan.origins[EMBEDDINGS],
        )

    def _is_possible(self, dtype: torch.dtype, quantization: Quantization | None) -> bool:
        try:
            check_quantization(quantization, dtype=dtype, device=self.device)
        except ValueError:
            return False
        return True

    def _ways(
        self, dtype: torch.dtype, executor: Executor, quantization: Quantization | None
    ) -> Iterator[Way]:
        """The fastest first."""
        options = self.options
        if options.tensor_parallel > 1 or options.device_map is not None:
            executor = Executor.TORCH
        is_served = bool(self.adapters) and options.adapter_mode is AdapterMode.SERVE
        choose = partial(
            choose_executor,
            model_config=self.plan.model.config,
            dtype=dtype,
            device=self.device,
            quantization=quantization,
            config=options.config,
            serves_adapters=is_served,
        )
        yield Way(dtype, choose(executor), quantization)
        if executor is Executor.AUTO:
            yield Way(dtype, Executor.TORCH, quantization)


def _refusal(choice: _Choice, smallest: HostForecast, free: FreeMemory) -> str:
    needs = (
        f"it needs {format_bytes(smallest.needed_bytes)} of memory with {smallest.way}, "
        f"but {format_bytes(free.num_bytes)} are {free.bound}"
    )
    config = choice.options.config
    without_kv = replace(smallest, kv_bytes=0).needed_bytes
    if config.num_blocks is not None and without_kv < free.num_bytes:
        per_token = smallest.kv_bytes // (config.num_blocks * config.block_size)
        most_blocks = (free.num_bytes - without_kv) // (per_token * config.block_size)
        if most_blocks > 0:
            return f"{needs}; kv_tokens must be at most {most_blocks * config.block_size}"
    others = list(choice.others()) if choice.device.type == "cpu" else []
    for other in others:
        if other.needed_bytes <= free.num_bytes:
            return f"{needs}; {other.way} would fit, with {format_bytes(other.needed_bytes)}"
    least = min([smallest, *others], key=lambda forecast: forecast.needed_bytes)
    if least.needed_bytes == smallest.needed_bytes:
        return f"{needs}; no other dtype, executor or quantization needs less"
    return f"{needs}; even {least.way} needs {format_bytes(least.needed_bytes)}"


def wanted_dtypes(name: str | None, stored: torch.dtype, device: torch.device) -> list[torch.dtype]:
    """What `name` allows for a checkpoint in `stored`; None and "auto" as in LoadOptions."""
    if name is None or (name == AUTO_DTYPE and device.type != "cpu"):
        return [stored]
    return list(CPU_DTYPES) if name == AUTO_DTYPE else [parse_dtype(name)]


def parse_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {name}")
    return DTYPES[name]
