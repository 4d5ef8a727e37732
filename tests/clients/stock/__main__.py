"""`python -m tests.clients.stock URL`: run the calls on a service, and list the failures."""

import sys
import time

from rich.console import Console

from tests.clients.stock import CALLS, missing_program
from tests.clients.stock.calls import Call, Target


def failure_of(call: Call, target: Target) -> str | None:
    """Run a call; return why it failed, if it did. Isolates calls from each other's errors."""
    try:
        call.run(target)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(url: str, *clients: str) -> int:
    console, target = Console(soft_wrap=True, highlight=False), Target(url)
    chosen = [call for call in CALLS if not clients or call.client in clients]
    calls = [call for call in chosen if missing_program(call.client) is None]
    started, num_failed = time.monotonic(), 0
    for call in calls:
        if (reason := failure_of(call, target)) is not None:
            num_failed += 1
            console.print(f"{call}: {reason}", markup=False)
    seconds = time.monotonic() - started
    console.print(
        f"{len(calls)} calls in {seconds:.1f} s, {num_failed} failed, "
        f"{len(chosen) - len(calls)} without their client"
    )
    return 1 if num_failed or not calls else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
