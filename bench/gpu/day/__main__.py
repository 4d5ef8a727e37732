"""`python -m bench.gpu.day --out DIR`: all that a card must decide, within a budget of seconds.

Needs torch, transformers and rich, no package of the service. Figures are written after each part.
`--device cpu --small` tries all of it on any machine.
"""

import argparse
import platform
import shutil
import sys
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.table import Table

from bench.gpu.card import Card, measure_card
from bench.gpu.checks import run_checks
from bench.gpu.day.products import measure_products
from bench.gpu.day.schedule import Day, Part, Result
from bench.gpu.day.whole_engine import Lab, free_memory
from bench.gpu.scale import PUBLISHED, SMALL, Scale
from bench.gpu.steps import measure_steps
from bench.gpu.tables import card_table, checks_table, compared_table, steps_table
from worker.engine.loading.single_device import parse_device
from worker.model.fused.fusing import DecoderLayers

MODELS = ("7b", "40b")
SEPARATE = DecoderLayers.SEPARATE


class Parts:
    """The parts of the run, and what they share."""

    def __init__(self, scale: Scale, device: torch.device) -> None:
        self._scale = scale
        self._device = device

    @cached_property
    def card(self) -> Card:
        return measure_card(self._device, self._scale)

    @cached_property
    def lab(self) -> Lab:
        return Lab(self._scale, self.card, self._device)

    def in_order(self) -> list[Part]:
        """Return all parts, the most needed first. falcon-40b comes before the shared network."""
        return [
            Part("environment", 1, self.environment),
            Part("card", 10, self.measure_card),
            Part("checks", 60, self.check),
            *(Part(f"steps of {like}", 40, partial(self.steps, like)) for like in MODELS),
            Part("steps of 7b, layers separate", 20, partial(self.steps, "7b", SEPARATE)),
            Part("products", 30, self.products),
            Part("graphs", 20, lambda: self.lab.graphs()),
            Part("engine", 90, lambda: self.lab.decode()),
            Part("prefill", 20, lambda: self.lab.prefill()),
            Part("mixed workload", 100, lambda: self.lab.mixed_workload()),
        ]

    def environment(self) -> Result:
        figures = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": _version("triton"),
            "transformers": _version("transformers"),
            "compiler": shutil.which("gcc"),  # Triton needs one
            "device": str(self._device),
        }
        table = Table("environment", "", box=None)
        for name, value in figures.items():
            table.add_row(name, str(value))
        return Result(figures, [table])

    def measure_card(self) -> Result:
        return Result(asdict(self.card), [card_table(self.card)])

    def check(self) -> Result:
        checks = run_checks(self._scale, self._device)
        failed = [check.name for check in checks if not check.passed]
        if failed:
            raise RuntimeError(f"these checks failed: {failed} of {checks}")
        return Result([asdict(check) for check in checks], [checks_table(checks)])

    def steps(self, like: str, layers: DecoderLayers = DecoderLayers.FUSED) -> Result:
        times = measure_steps(like, self._scale, self.card, self._device, layers)
        free_memory()
        tables = [steps_table(like, times), compared_table(like, times, layers)]
        return Result([time.to_json() for time in times], tables)

    def products(self) -> Result:
        rows = (1, 8, 16, 32, 64, 128, 256) if self._scale.full_size else self._scale.rows
        result = measure_products(MODELS, rows, self._scale, self.card, self._device)
        free_memory()
        return result


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.day",
        description="Measure a card within a budget; exits with 1 when a part fails.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for figures and tables")
    parser.add_argument("--budget", type=float, default=480, help="seconds")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="small shapes, to try the command")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    try:
        device = parse_device(options.device)
    except ValueError as error:
        print(f"bench.gpu.day: --{error}", file=sys.stderr)
        sys.exit(2)
    parts = Parts(SMALL if options.small else PUBLISHED, device)
    sys.exit(0 if Day(options.out, options.budget).run(parts.in_order()) else 1)


if __name__ == "__main__":
    main()
