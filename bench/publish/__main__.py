"""`make benchmarks`: measure everything, and write the tables and plots of docs/benchmarks.md.

`python -m bench.publish` writes the page from docs/benchmarks.json, the figures of the last run.
`--measure SECTION` measures a section first, in the folder of `bench.peers.compare`.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.figures import read_figures
from bench.peers.compare import ensure_model
from bench.process import run_command
from bench.publish.plots import draw
from bench.publish.tables import fill
from shared.errors import FalconerError

DOCS = Path(__file__).parents[2] / "docs"
Command = tuple[str, ...]
FLOAT32, BFLOAT16 = ("--dtype", "float32"), ("--dtype", "bfloat16")
INT8, INT4 = ("--quantization", "int8"), ("--quantization", "int4")
FORMATS: tuple[Command, ...] = (BFLOAT16, INT8, INT4)


class Section(StrEnum):
    ENGINE = "engine"
    BANDWIDTH = "bandwidth"
    SWEEP = "sweep"
    SERVICE = "service"
    SERVE = "serve"  # falcon-7b's size


def publish(
    measure: Annotated[
        list[Section] | None, typer.Option(help="Sections to measure; `make benchmarks`: all.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Folder for the model, the peers' environments and all figures.")
    ] = Path(".falconer/bench"),
    full_size: Annotated[
        Path | None, typer.Option(help="Falcon-7b's size; written there if missing, 13 GB.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    docs: Annotated[Path, typer.Option(help="Folder of benchmarks.md and its figures.")] = DOCS,
) -> None:
    """Write the tables and plots of docs/benchmarks.md."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in measure or []:
        for command in commands(section, folder, full_size, rounds):
            print(f"$ python {' '.join(command)}", flush=True)
            if subprocess.run((sys.executable, *command)).returncode:
                raise FalconerError(f"{section} failed: its figures stay as they were")
    if measure:
        shutil.copyfile(folder / "figures.json", docs / "benchmarks.json")
    write_page(docs)


def write_page(docs: Path) -> None:
    """Write the tables into benchmarks.md and the plots next to it, from benchmarks.json."""
    figures, page = read_figures(docs / "benchmarks.json"), docs / "benchmarks.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), figures), encoding="utf-8")
    draw(figures, docs / "images")


def commands(
    section: Section, folder: Path, full_size: Path | None, rounds: int
) -> Iterator[Command]:
    """Yield the commands that measure a section, as arguments of python."""
    figures = ("--figures", str(folder / "figures.json"))
    small = folder / "model-bfloat16"
    flags: Command
    match section:
        case Section.ENGINE | Section.SERVICE:
            module = "bench.peers.compare" if section is Section.ENGINE else "bench.service.compare"
            yield ("-m", module, "--folder", str(folder), "--rounds", str(rounds))
        case Section.SWEEP:
            model = str(ensure_model(small))
            for flags in ((), FLOAT32):
                yield ("-m", "bench.engine.sweep", "--model", model, *flags, *figures)
        case Section.BANDWIDTH:
            models = [ensure_model(small), *([full_size] if full_size else [])]
            for path in models:
                for flags in FORMATS if path == full_size else (FLOAT32, *FORMATS):
                    yield ("-m", "bench.engine.bandwidth", "--model", str(path), *flags, *figures)
        case Section.SERVE if full_size is not None:
            for flags in ((), INT8, INT4):
                yield ("-m", "bench.service.smoke", str(full_size), *flags, *figures)


if __name__ == "__main__":
    run_command("bench.publish", publish)
