"""`falconer model …`: create and describe checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from shared.errors import FalconerError
from worker.engine import EngineConfig
from worker.engine.loading.calibration import known_limits
from worker.engine.loading.compatibility import check_combination
from worker.engine.loading.dtypes import AUTO_DTYPE, parse_dtype
from worker.engine.loading.load_plan import choose_variant, forecast_variants
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import parse_kind
from worker.engine.loading.step_limits import lower_to_blocks
from worker.engine.memory.host_forecast import PROCESS_BYTES, HostForecast
from worker.engine.memory.kv_cache_size import MemoryPlan, forecast_cpu, forecast_gpu
from worker.host_memory import FreeMemory, format_bytes, free_memory
from worker.model.checkpoint.info import ModelInfo, describe
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.tiny import copy_bundled
from worker.model.checkpoint.weights import LoadingPlan, plan_loading
from worker.model.config import DTYPES
from worker.model.errors import CheckpointError
from worker.model.layers.quantization import Quantization
from worker.model_loading import find_checkpoint

GIB = 2**30
MEMORY_GIB = (15, 22, 44, 79, 93, 139)  # usable on cards of 16, 24, 48, 80, 94 and 141 GB
CONTEXTS = (512, 2048)
MANY = 10**6  # rows: no limit


def write_tiny(directory: Path) -> None:
    with _user_errors():
        print(copy_bundled(directory))


def write_random(directory: Path, *, dtype: str, **shape: Any) -> None:
    """Write a random checkpoint; a `shape` value of None leaves its default."""
    if dtype not in DTYPES:
        raise FalconerError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    given = {name: value for name, value in shape.items() if value is not None}
    with _user_errors():
        print(write_random_checkpoint(directory, dtype=DTYPES[dtype], **given))


def show_info(
    source: str,
    *,
    memory: str | None,
    dtype: str | None,
    quantization: str | None,
    device: str,
    config: EngineConfig,
) -> None:
    """Print a model's sizes and how many rows fit: on common cards, or into `memory`.

    With `dtype` None, a worker's choice applies. Where it would measure steps to lower the open
    limits of `config`, the forecast takes their upper bounds. Raises FalconerError if quantization,
    device and dtype do not go together, or if the model does not fit into `memory`.
    """
    with _user_errors():
        target, rounding = parse_kind(device), _quantization(quantization)
        plan = plan_loading(find_checkpoint(source))
        num_bytes = None if memory is None else _parse_memory(memory)
        if target.type == "cpu":
            known = known_limits(config, plan.model.config, target)
            options = LoadOptions(
                source,
                config=known.config if known else config,
                dtype=dtype or AUTO_DTYPE,
                quantization=rounding,
            )
            tables = _on_cpu(plan, options, num_bytes)
        else:
            wanted = plan.dtype if dtype is None else parse_dtype(dtype)
            check_combination(rounding, dtype=wanted, device=target)
            tables = _on_gpu(describe(plan, wanted, rounding), config, num_bytes)
    for table in tables:
        Console().print(table)


def _on_cpu(plan: LoadingPlan, options: LoadOptions, memory: int | None) -> list[Table]:
    cpu = torch.device("cpu")
    variants = forecast_variants(plan, options, cpu)
    if memory is None:
        info = describe(plan, variants[0].variant.dtype, options.quantization)
        return [_facts(info), _variants(variants, free_memory().num_bytes)]
    left = f"left of {format_bytes(memory)} by the process itself"
    free = FreeMemory(max(0, memory - PROCESS_BYTES), left)
    chosen = choose_variant(plan, options, cpu, free=free)
    info = describe(plan, chosen.variant.dtype, options.quantization)
    shared = forecast_cpu(
        info.config,
        options.config,
        chosen,
        memory_bytes=memory,
        weight_bytes=info.weight_bytes,
    )
    is_measured = known_limits(options.config, info.config, cpu) is None
    return [
        _facts(info),
        _variants(variants, free.num_bytes, chosen),
        _plan(shared, options.config, memory, is_measured=is_measured),
    ]


def _on_gpu(info: ModelInfo, config: EngineConfig, memory: int | None) -> list[Table]:
    if memory is None:
        return [_facts(info), _cards(info)]
    shared = forecast_gpu(
        info.config,
        config,
        dtype=info.dtype,
        memory_bytes=memory,
        weight_bytes=info.weight_bytes,
    )
    return [_facts(info), _plan(shared, config, memory, is_measured=False)]


def _variants(
    variants: list[HostForecast], free_bytes: int, chosen: HostForecast | None = None
) -> Table:
    """Return the memory that each variant needs, the worker's process included."""
    table = Table("dtype", "executor", "loading peak", "then", "needs", "fits", box=None, title="")
    for forecast in variants:
        loading, resident, needed = (
            format_bytes(PROCESS_BYTES + num_bytes)
            for num_bytes in (
                forecast.loading_bytes,
                forecast.resident_bytes,
                forecast.needed_bytes,
            )
        )
        fits = "yes" if forecast.needed_bytes <= free_bytes else "no"
        if chosen is not None and forecast.variant == chosen.variant:
            fits = "chosen"
        dtype = str(forecast.variant.dtype).removeprefix("torch.")
        table.add_row(dtype, forecast.variant.executor, loading, resident, needed, fits)
    return table


def _facts(info: ModelInfo) -> Table:
    config = info.config
    table = Table(box=None, show_header=False)
    for name, value in (
        ("style", config.style),
        ("parameters", f"{config.num_parameters:,}"),
        ("dtype", str(info.dtype).removeprefix("torch.")),
        ("weights", format_bytes(info.weight_bytes)),
        ("KV cache per token", format_bytes(info.kv_bytes_per_token)),
        ("context", f"{config.context_length:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("layers", str(config.num_layers)),
        ("heads", f"{config.num_heads} on {config.num_kv_heads} of keys and values"),
    ):
        table.add_row(name, value)
    return table


def _cards(info: ModelInfo) -> Table:
    """Return how many sequences fit next to the weights, if the settings allow so many rows."""
    lengths = [length for length in CONTEXTS if length <= info.config.context_length]
    columns = (f"rows of {length:,} tokens" for length in lengths)
    table = Table("GPU memory", *columns, box=None, title="")
    unlimited = EngineConfig(max_rows=MANY, max_step_tokens=MANY)
    for gib in MEMORY_GIB:
        try:
            plan = forecast_gpu(
                info.config,
                unlimited,
                dtype=info.dtype,
                memory_bytes=gib * GIB,
                weight_bytes=info.weight_bytes,
            )
            fits = [f"{plan.rows_of(length):,}" for length in lengths]
        except ValueError:
            fits = ["none"] * len(lengths)
        table.add_row(f"{gib} GiB", *fits)
    return table


def _plan(plan: MemoryPlan, bounds: EngineConfig, memory: int, *, is_measured: bool) -> Table:
    """Return the sizes that a worker with these settings logs after loading.

    `is_measured`: the worker measures its steps, and may choose fewer rows and KV blocks for them.
    """
    config = lower_to_blocks(bounds, plan.num_blocks)
    rows = f"{config.max_rows:,} at most"
    if is_measured:
        rows += "; a worker measures its steps and may choose fewer, with a smaller KV cache"
    table = Table(box=None, show_header=False, title="")
    for name, value in (
        ("memory", format_bytes(memory)),
        ("weights", format_bytes(plan.weight_bytes)),
        ("KV cache", format_bytes(plan.kv_bytes)),
        ("blocks", f"{plan.num_blocks:,} of {plan.block_size} tokens"),
        ("KV tokens", f"{plan.kv_tokens:,}"),
        ("rows of full length", f"{plan.rows_of(plan.context_length):,}"),
        ("rows in a step", rows),
    ):
        table.add_row(name, value)
    return table


def _parse_memory(text: str) -> int:
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise FalconerError(f"--memory must be a size such as 80GiB, got {text!r}") from None


def _quantization(name: str | None) -> Quantization | None:
    if name is not None and name not in list(Quantization):
        kinds = ", ".join(Quantization)
        raise FalconerError(f"--quantization must be one of {kinds}, got {name!r}")
    return None if name is None else Quantization(name)


@contextmanager
def _user_errors() -> Iterator[None]:
    try:
        yield
    except (CheckpointError, ValueError, OSError) as error:
        raise FalconerError(str(error)) from error
