"""Run the parts of a measurement within a budget of seconds; write the figures after each part."""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FIGURES, TABLES = "figures.json", "tables.txt"


@dataclass(frozen=True, slots=True)
class Result:
    figures: Any  # as JSON
    tables: Sequence[Table]


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    expected_s: float  # on an H200; with less left, the part is skipped
    run: Callable[[], Result]


class Day:
    """The figures of a run, in a folder. A part that fails or is skipped ends no other."""

    def __init__(self, folder: Path, budget_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ends_at = time.monotonic() + budget_s
        self._figures: dict[str, Any] = {}
        self._console = Console()

    def run(self, parts: Sequence[Part]) -> bool:
        """Run the parts in order; return whether none failed."""
        (self._folder / TABLES).write_text("")
        return all([self._run(part) for part in parts])

    def _run(self, part: Part) -> bool:
        started = time.monotonic()
        left_s = self._ends_at - started
        if left_s < part.expected_s:
            self._record(part.name, {"skipped": f"{left_s:.0f} s left of {part.expected_s:.0f}"})
            return True
        try:
            result = part.run()
        except Exception:  # the figures of other parts are wanted all the more
            self._record(part.name, {"failed": traceback.format_exc()})
            return False
        self._record(part.name, {"seconds": time.monotonic() - started, "figures": result.figures})
        self._print(result.tables)
        return True

    def _record(self, name: str, figures: dict[str, Any]) -> None:
        self._figures[name] = figures
        text = json.dumps(self._figures, indent=1, default=str)
        (self._folder / FIGURES).write_text(text + "\n")
        seen = [f"{key}: {figures[key]}" for key in ("skipped", "failed") if key in figures]
        self._console.print(name, *seen, markup=False)

    def _print(self, tables: Sequence[Table]) -> None:
        with (self._folder / TABLES).open("a") as file:
            to_file = Console(file=file, width=120)
            for table in tables:
                self._console.print(table, "")
                to_file.print(table, "")
