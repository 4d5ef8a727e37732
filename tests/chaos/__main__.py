"""`make chaos`: break the service on purpose, under load, and check every promise it makes."""

import secrets
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.command import carry_out
from tests.chaos.report import print_report, print_schedule
from tests.chaos.run import RunSettings, run
from tests.chaos.schedule import Fleet


def main(
    seed: Annotated[int | None, typer.Option(help="Replays a run; not given: drawn.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Asked for; bad input comes on top.")] = 2000,
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
    seed = secrets.randbits(32) if seed is None else seed
    settings = RunSettings(seed, jobs, faults, concurrency, Fleet(apis, workers, lease_s))
    carry_out(partial(break_and_check, settings), folder)


async def break_and_check(settings: RunSettings, folder: Path, console: Console) -> bool:
    """Whether every promise was kept. The seed is told first, whatever comes."""
    console.print(f"seed {settings.seed}")
    print_schedule(settings.schedule, console)
    outcome = await run(settings, folder)
    print_report(outcome, console)
    return not outcome.violations


if __name__ == "__main__":
    typer.run(main)
