"""What all commands of the harness share: a folder, a console, an end that leaves no process."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

WIDTH = 120  # of what goes into a file

Work = Callable[[Path, Console], Coroutine[Any, Any, bool]]


def carry_out(work: Work, folder: Path | None = None) -> None:
    """Exits 1 unless `work` says that all was well. Told to end, it ends what it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with tempfile.TemporaryDirectory(prefix="falconer-chaos-") as temporary:
        # Not uvloop: there anyio raises AttributeError for a connection that breaks as it is made.
        is_fine = asyncio.run(work(folder or Path(temporary), console))
    raise typer.Exit(0 if is_fine else 1)
