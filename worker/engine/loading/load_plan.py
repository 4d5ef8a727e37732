"""Choose dtype, executor and quantization by what fits in memory, before a weight is read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from worker.engine.execution.executor import Executor
from worker.engine.loading.adapters import AdapterMode
from worker.engine.loading.compatibility import check_quantization, choose_executor
from worker.engine.loading.dtypes import CPU_DTYPES, wanted_dtypes
from worker.engine.loading.options import LoadOptions
from worker.engine.memory.host_forecast import HostForecast, LoadVariant, forecast_host
from worker.host_memory import FreeMemory, format_bytes, free_memory
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.checkpoint.adapter_weights import find_weights
from worker.model.checkpoint.weights import EMBEDDINGS, LM_HEAD, LoadingPlan
from worker.model.layers.quantization import Quantization
from worker.model.quantized_linears import quantized_weights

# The share of free memory to leave to other processes, if a smaller variant allows it.
_SHARE_LEFT = 0.1
# Suggestions of a refusal, in this order.
_OTHER_KINDS = (Quantization.INT8, Quantization.INT8_WEIGHT_ONLY, Quantization.INT4)


def choose_variant(
    plan: LoadingPlan,
    options: LoadOptions,
    device: torch.device,
    adapters: Sequence[AdapterFolder] = (),
    free: FreeMemory | None = None,
) -> HostForecast:
    """Choose the first variant that `options` allow and that fits; most exact and fastest first.

    `free` None reads the free memory of the machine. Raises ValueError, in one line that says what
    would fit, if no variant fits.
    """
    choice = _VariantChoice(plan, options, device, adapters)
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


def forecast_variants(
    plan: LoadingPlan, options: LoadOptions, device: torch.device
) -> list[HostForecast]:
    """Forecast the variants that `options` allow, best first. Raises ValueError if none."""
    return _VariantChoice(plan, options, device, ()).allowed()


@dataclass(frozen=True, slots=True)
class _VariantChoice:
    plan: LoadingPlan
    options: LoadOptions
    device: torch.device
    adapters: Sequence[AdapterFolder]

    def allowed(self) -> list[HostForecast]:
        """Forecast the variants of the options. Raises ValueError if there is none."""
        options = self.options
        variants: dict[LoadVariant, str] = {}  # with the reason for its dtype
        obstacles: list[ValueError] = []
        for dtype, reason in wanted_dtypes(options.dtype, self.plan, self.device).items():
            try:
                check_quantization(options.quantization, dtype=dtype, device=self.device)
                variants |= dict.fromkeys(
                    self._variants(dtype, options.executor, options.quantization), reason
                )
            except ValueError as obstacle:
                obstacles.append(obstacle)
        if not variants:
            raise obstacles[0]
        return [
            replace(self._forecast(variant), reason=reason) for variant, reason in variants.items()
        ]

    def others(self) -> Iterator[HostForecast]:
        """Forecast variants of other settings, the most similar first."""
        kinds = dict.fromkeys([self.options.quantization, None, *_OTHER_KINDS])
        for quantization in kinds:
            for dtype in CPU_DTYPES:
                with suppress(ValueError):
                    check_quantization(quantization, dtype=dtype, device=self.device)
                    yield from map(
                        self._forecast, self._variants(dtype, Executor.AUTO, quantization)
                    )

    def _forecast(self, variant: LoadVariant) -> HostForecast:
        plan = self.plan
        return forecast_host(
            variant,
            plan.model,
            self.options.config,
            device=self.device,
            num_parts=self.options.tensor_parallel,
            adapter_bytes=sum(find_weights(folder).stat().st_size for folder in self.adapters),
            stores_head=plan.origins[LM_HEAD] != plan.origins[EMBEDDINGS],
            embeddings_dtype=plan.embeddings_dtype(
                variant.dtype, quantized_weights(plan.model, variant.quantization)
            ),
        )

    def _variants(
        self, dtype: torch.dtype, executor: Executor, quantization: Quantization | None
    ) -> Iterator[LoadVariant]:
        """Yield the variants of a dtype, the fastest first. Raises ValueError if there is none."""
        options = self.options
        if options.tensor_parallel > 1 or options.device_map is not None:
            executor = Executor.TORCH
        is_served = options.adapter_mode is AdapterMode.SERVE
        choose = partial(
            choose_executor,
            model_config=self.plan.model.config,
            dtype=dtype,
            device=self.device,
            quantization=quantization,
            config=options.config,
            serves_adapters=is_served,
        )
        kv_dtype = torch.int8 if options.kv_dtype == "int8" else None
        if kv_dtype or quantization is Quantization.INT4:
            option = "kv_dtype int8" if kv_dtype else "quantization int4"
            only = _only_openvino(option, executor, choose)
            yield LoadVariant(dtype, only, quantization, kv_dtype)
            return
        yield LoadVariant(dtype, choose(executor), quantization)
        if executor is Executor.AUTO:
            yield LoadVariant(dtype, Executor.TORCH, quantization)


def _only_openvino(
    option: str, wanted: Executor, choose: Callable[[Executor], Executor]
) -> Executor:
    """Return OPENVINO. Raises ValueError if it is not wanted or cannot run the model."""
    needs = f"{option} needs executor openvino"
    if wanted is Executor.TORCH:
        raise ValueError(f"{needs}, which runs in one process on a CPU, not torch")
    try:
        return choose(Executor.OPENVINO)
    except ValueError as error:
        raise ValueError(f"{needs}; {error}") from error


def _refusal(choice: _VariantChoice, smallest: HostForecast, free: FreeMemory) -> str:
    needs = (
        f"it needs {format_bytes(smallest.needed_bytes)} of memory with {smallest.variant}, "
        f"but {format_bytes(free.num_bytes)} are {free.source}"
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
            return f"{needs}; {other.variant} would fit, with {format_bytes(other.needed_bytes)}"
    least = min([smallest, *others], key=lambda forecast: forecast.needed_bytes)
    if least.needed_bytes == smallest.needed_bytes:
        return f"{needs}; no other dtype, executor or quantization needs less"
    return f"{needs}; even {least.variant} needs {format_bytes(least.needed_bytes)}"
