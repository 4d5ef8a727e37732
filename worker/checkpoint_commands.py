"""`falconer model …`: make checkpoints and describe them, with errors a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from shared.errors import FalconerError
from worker.byte_size import format_size, parse_size
from worker.engine import EngineConfig
from worker.engine.loading import parse_dtype, parse_kind
from worker.engine.memory_plan import forecast
from worker.engine.quantization_support import check_combination
from worker.model.config import DTYPES
from worker.model.errors import CheckpointError
from worker.model.info import ModelInfo, describe
from worker.model.quantization import Quantization
from worker.model.random_checkpoint import write_random_checkpoint
from worker.model.tiny import copy_bundled
from worker.model_loading import CPU_DTYPE, find_checkpoint

GIB = 2**30
MEMORY_GIB = (15, 22, 44, 79, 93, 139)  # what cards of 16, 24, 48, 80, 94 and 141 GB have
CONTEXTS = (512, 2048)
MANY = 10**6  # rows: no limit


def write_tiny(directory: Path) -> None:
    with _clear_errors():
        print(copy_bundled(directory))


def write_random(directory: Path, *, dtype: str, **shape: Any) -> None:
    """`shape` as for `write_random_checkpoint`; `None` leaves a size at its default."""
    if dtype not in DTYPES:
        raise FalconerError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    given = {name: value for name, value in shape.items() if value is not None}
    with _clear_errors():
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
    """Print what a model is, and what fits: on cards in use, or of `config` in so much `memory`.

    `dtype` None is what a worker takes by itself. Raises FalconerError in a worker's words where
    quantization, device and dtype do not go together: such a forecast would be of no use.
    """
    with _clear_errors():
        target, rounding = parse_kind(device), _quantization(quantization)
        if dtype is None and target.type == "cpu":
            dtype = CPU_DTYPE
        info = describe(str(find_checkpoint(source)), parse_dtype(dtype), rounding)
        check_combination(rounding, dtype=info.dtype, device=target)
        tables = [_facts(info)]
        if memory is not None:
            tables.append(_plan(info, config, target, parse_size(memory)))
        elif target.type == "cuda":
            tables.append(_cards(info))
    for table in tables:
        Console().print(table)


def _facts(info: ModelInfo) -> Table:
    config = info.config
    table = Table(box=None, show_header=False)
    for name, value in (
        ("style", config.style),
        ("parameters", f"{config.num_parameters:,}"),
        ("dtype", str(info.dtype).removeprefix("torch.")),
        ("weights", format_size(info.weight_bytes)),
        ("KV cache per token", format_size(info.kv_bytes_per_token)),
        ("context", f"{config.context_length:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("layers", str(config.num_layers)),
        ("heads", f"{config.num_heads} on {config.num_kv_heads} of keys and values"),
    ):
        table.add_row(name, value)
    return table


def _cards(info: ModelInfo) -> Table:
    """How many sequences fit beside the weights, if a worker's settings allow so many rows."""
    lengths = [length for length in CONTEXTS if length <= info.config.context_length]
    columns = (f"rows of {length:,} tokens" for length in lengths)
    table = Table("GPU memory", *columns, box=None, title="")
    unlimited = EngineConfig(max_rows=MANY, max_step_tokens=MANY)
    for gib in MEMORY_GIB:
        try:
            plan = forecast(
                info.config,
                unlimited,
                dtype=info.dtype,
                device=torch.device("cuda"),
                memory_bytes=gib * GIB,
                weight_bytes=info.weight_bytes,
            )
            fits = [f"{plan.rows_of(length):,}" for length in lengths]
        except ValueError:
            fits = ["none"] * len(lengths)
        table.add_row(f"{gib} GiB", *fits)
    return table


def _plan(info: ModelInfo, config: EngineConfig, device: torch.device, memory: int) -> Table:
    """What a worker with these settings takes, and tells in its log once it has loaded."""
    plan = forecast(
        info.config,
        config,
        dtype=info.dtype,
        device=device,
        memory_bytes=memory,
        weight_bytes=info.weight_bytes,
    )
    table = Table(box=None, show_header=False, title="")
    for name, value in (
        ("memory", format_size(memory)),
        ("weights", format_size(plan.weight_bytes)),
        ("KV cache", format_size(plan.kv_bytes)),
        ("blocks", f"{plan.num_blocks:,} of {plan.block_size} tokens"),
        ("KV tokens", f"{plan.kv_tokens:,}"),
        ("rows of full length", f"{plan.rows_of(plan.context_length):,}"),
        ("rows in a step", f"{config.max_rows:,} at most"),
    ):
        table.add_row(name, value)
    return table


def _quantization(name: str | None) -> Quantization | None:
    if name is not None and name not in list(Quantization):
        kinds = ", ".join(Quantization)
        raise FalconerError(f"--quantization must be one of {kinds}, got {name!r}")
    return None if name is None else Quantization(name)


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except (CheckpointError, ValueError, OSError) as error:
        raise FalconerError(str(error)) from error
