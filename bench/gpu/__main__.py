"""`python -m bench.gpu --json out.json`: check and measure the engine on a GPU.

The models have random weights in the published shapes. This command has not run on a GPU before it
was released. `--device cpu --small` tries all of it on any machine.
"""

import argparse
import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from bench.gpu.card import Card, measure_card
from bench.gpu.checks import run_checks
from bench.gpu.cold_start import measure_cached_start, measure_cold_start
from bench.gpu.profiling import profile_decoding
from bench.gpu.scale import PUBLISHED, SMALL, Scale, ensure_checkpoint
from bench.gpu.steps import measure_steps
from bench.gpu.tables import (
    card_table,
    checks_table,
    cold_start_table,
    profile_table,
    steps_table,
    throughput_table,
)
from bench.gpu.throughput import measure_generate, measure_throughput
from bench.report import check_output
from shared.errors import FalconerError
from worker.engine.loading.single_device import parse_device

MEASURED = ("7b", "40b")


class Measurement:
    """Print and store the figures of each part, so that a later failure loses none."""

    def __init__(self, device: torch.device, scale: Scale, json_out: Path | None) -> None:
        self._device = device
        self._scale = scale
        self._json_out = json_out
        self._console = Console()
        self._figures: dict[str, Any] = {"torch": torch.__version__, "device": str(device)}

    def run(self, folder: Path) -> bool:
        """Run all parts; return whether every check passed."""
        passed = self._check()
        card = measure_card(self._device, self._scale)
        self._tell(card_table(card), card=asdict(card))
        for like in MEASURED:
            self._time_steps(like, card)
        self._run_engine(folder)
        return passed

    def _check(self) -> bool:
        checks = run_checks(self._scale, self._device)
        self._tell(checks_table(checks), checks=[asdict(check) for check in checks])
        return all(check.passed for check in checks)

    def _time_steps(self, like: str, card: Card) -> None:
        times = measure_steps(like, self._scale, card, self._device)
        steps = self._figures.get("steps", {}) | {like: [time.to_json() for time in times]}
        self._tell(steps_table(like, times), steps=steps)
        self._free_memory()

    def _run_engine(self, folder: Path) -> None:
        checkpoint = ensure_checkpoint(folder, self._scale)
        cold = measure_cold_start(checkpoint, self._device)
        self._free_memory()
        cached, engine = measure_cached_start(checkpoint, self._device)
        starts = {start.state: start.to_json() for start in (cold, cached)}
        self._tell(cold_start_table(cold, cached), starts=starts)
        profile = profile_decoding(engine, self._scale, self._device)
        idle = {"idle_share": profile.idle_share}
        self._tell(profile_table(profile), profile=asdict(profile) | idle)
        tokens_per_s = measure_throughput(engine, self._scale)
        del engine
        self._free_memory()
        of_generate = measure_generate(checkpoint, self._scale, self._device)
        self._tell(
            throughput_table(tokens_per_s, of_generate),
            throughput={"falconer": tokens_per_s, "generate": of_generate},
        )

    def _tell(self, table: Table, **figures: Any) -> None:
        self._console.print(table, "")
        self._figures |= figures
        if self._json_out is not None:
            self._json_out.write_text(json.dumps(self._figures, indent=1) + "\n")

    def _free_memory(self) -> None:
        """Free the device's memory for the next part, which needs all of it."""
        gc.collect()
        torch.cuda.empty_cache()


def measure(options: argparse.Namespace) -> bool:
    """Check and measure the engine on a device; return whether every check passed."""
    check_output(options.json)
    try:
        device = parse_device(options.device)
    except ValueError as error:
        raise FalconerError(f"--{error}") from error
    progress_bars: Any = transformers_logging  # its functions have no types
    progress_bars.disable_progress_bar()
    scale = SMALL if options.small else PUBLISHED
    return Measurement(device, scale, options.json).run(options.folder)


def parse_options() -> argparse.Namespace:
    """Parse flags without typer, whose newer versions need pydantic, a package of the service."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description="Check and measure the engine on a device; exits with 1 when a check fails.",
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="small shapes, to try the command")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".falconer/gpu"),
        help="for a random falcon-7b: 14 GB of its published size",
    )
    return parser.parse_args()


def main() -> None:
    try:
        passed = measure(parse_options())
    except FalconerError as error:
        print(f"bench.gpu: {error.message}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
