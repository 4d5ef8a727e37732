"""`make chaos`: inject faults into a service under load and check its guarantees."""

import secrets
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.harness.command import run_command
from tests.chaos.report import print_report, print_schedule
from tests.chaos.run import RunSettings, run
from tests.chaos.scenarios.fault_schedule import Fleet


def main(
    seed: Annotated[int | None, typer.Option(help="Seed of the run; random by default.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Submitted jobs; invalid requests are extra.")
    ] = 2000,
    faults: Annotated[int, typer.Option(min=0, help="Number of faults.")] = 50,
    apis: Annotated[int, typer.Option(min=1, help="Api replicas.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 3,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent calls.")] = 32,
    lease_s: Annotated[float, typer.Option(min=0.5, help="Lease of the workers in seconds.")] = 3.0,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for logs and Redis; temporary by default.")
    ] = None,
) -> None:
    """Inject faults under load; exit with 1 if a guarantee is violated."""
    seed = secrets.randbits(32) if seed is None else seed
    settings = RunSettings(seed, jobs, faults, concurrency, Fleet(apis, workers, lease_s))
    run_command(partial(run_and_report, settings), folder)


async def run_and_report(settings: RunSettings, folder: Path, console: Console) -> bool:
    """Print the seed, run, print the report, and return whether no guarantee was violated."""
    console.print(f"seed {settings.seed}")
    print_schedule(settings.schedule, console)
    outcome = await run(settings, folder)
    print_report(outcome, console)
    return not outcome.violations


if __name__ == "__main__":
    typer.run(main)
