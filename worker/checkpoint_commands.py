"""`falconer model …`: make checkpoints and describe them, with errors a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.errors import FalconerError
from worker.model.config import DTYPES
from worker.model.errors import CheckpointError
from worker.model.info import ModelInfo, describe
from worker.model.quantization import Quantization
from worker.model.random_checkpoint import write_random_checkpoint
from worker.model.tiny import copy_bundled
from worker.model_loading import find_checkpoint

GIB = 2**30
MEMORY_GIB = (16, 24, 48, 80, 141)  # of cards in use
CONTEXTS = (512, 2048)


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


def show_info(source: str, *, quantization: str | None = None) -> None:
    with _clear_errors():
        info = describe(str(find_checkpoint(source)), _quantization(quantization))
    console = Console()
    console.print(_facts(info))
    console.print(_rows(info))


def _facts(info: ModelInfo) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in (
        ("style", info.style),
        ("parameters", f"{info.num_parameters:,}"),
        ("dtype", str(info.dtype).removeprefix("torch.")),
        ("weights", _size(info.weight_bytes)),
        ("KV cache per token", _size(info.kv_bytes_per_token)),
        ("context", f"{info.context_length:,} tokens"),
        ("vocabulary", f"{info.vocab_size:,}"),
        ("layers", str(info.num_layers)),
        ("heads", f"{info.num_heads} on {info.num_kv_heads} of keys and values"),
    ):
        table.add_row(name, value)
    return table


def _rows(info: ModelInfo) -> Table:
    """How many sequences fit beside the weights; activations are not counted."""
    lengths = [length for length in CONTEXTS if length <= info.context_length]
    table = Table(
        "memory", *(f"rows of {length:,} tokens" for length in lengths), box=None, title=""
    )
    for memory in MEMORY_GIB:
        fits = [info.rows_that_fit(memory * GIB, context_length=length) for length in lengths]
        table.add_row(f"{memory} GiB", *(f"{rows:,}" if rows else "none" for rows in fits))
    return table


def _quantization(name: str | None) -> Quantization | None:
    if name is not None and name not in list(Quantization):
        kinds = ", ".join(Quantization)
        raise FalconerError(f"--quantization must be one of {kinds}, got {name!r}")
    return None if name is None else Quantization(name)


def _size(num_bytes: int) -> str:
    for unit, factor in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except (CheckpointError, ValueError, OSError) as error:
        raise FalconerError(str(error)) from error
