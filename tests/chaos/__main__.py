"""`make chaos`: break the service on purpose, under load, and check every promise it makes."""

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.report import print_report, print_schedule
from tests.chaos.run import RunSettings, run
from tests.chaos.schedule import Fleet, draw_schedule

WIDTH = 120  # of a report that goes into a file


def main(
    seed: Annotated[int | None, typer.Option(help="Replays a run; not given: drawn.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Calls in all.")] = 2000,
    faults: Annotated[int, typer.Option(min=0, help="Faults in all.")] = 50,
    apis: Annotated[int, typer.Option(min=1, help="Api replicas.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 3,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls under way at a time.")] = 32,
    lease_s: Annotated[float, typer.Option(min=0.5, help="Lease of the workers, s.")] = 3.0,
    folder: Annotated[
        Path | None, typer.Option(help="For logs and Redis; not given: a temporary one.")
    ] = None,
) -> None:
    """Exits 1 when a promise is broken."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    seed = secrets.randbits(32) if seed is None else seed
    fleet = Fleet(apis, workers, lease_s)
    settings = RunSettings(seed, jobs, faults, concurrency, fleet)
    console.print(f"seed {seed}")
    print_schedule(draw_schedule(seed, faults, jobs, fleet), console)
    with tempfile.TemporaryDirectory(prefix="falconer-chaos-") as temporary:
        outcome = asyncio.run(run(settings, folder or Path(temporary)))
    print_report(outcome, console)
    raise typer.Exit(1 if outcome.violations else 0)


if __name__ == "__main__":
    typer.run(main)
