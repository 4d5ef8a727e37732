"""Common part of the commands: a folder, a console, and an end that leaves no process behind."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

WIDTH = 120  # of output to a file

Work = Callable[[Path, Console], Coroutine[Any, Any, bool]]


def run_command(work: Work, folder: Path | None = None) -> None:
    """Run `work` and exit with 1 if it returns False. SIGTERM ends the started processes too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with tempfile.TemporaryDirectory(prefix="falconer-chaos-") as temporary:
        # Not uvloop: anyio raises AttributeError there if a connection breaks while it is opened.
        is_ok = asyncio.run(work(folder or Path(temporary), console))
    raise typer.Exit(0 if is_ok else 1)
