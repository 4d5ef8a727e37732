"""Define `falconer batch`, which runs the requests of a file on a running service."""

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falconer.client_cli import ApiKey, AsJson, Url, connect, print_json, show
from shared.errors import FalconerError

if TYPE_CHECKING:
    from falconer.client import Batch, BatchInfo, Client

batch = typer.Typer(no_args_is_help=True, help="Run the requests of a file as one batch.")

LOOK_S = 1.0  # between two looks at a batch
INTERRUPTED = 130  # exit code, as shells set it after SIGINT
INCOMPLETE = 1  # exit code for a batch that expired or was cancelled, or has failed lines

BatchId = Annotated[str, typer.Argument(help="Id of the batch.", show_default=False)]
Source = Annotated[
    Path, typer.Argument(help="JSON lines of {custom_id, url, body}.", show_default=False)
]
Endpoint = Annotated[
    str | None, typer.Option(help="Path of all requests \\[that of the first request].")
]
Window = Annotated[str, typer.Option(help="Time until the batch expires, such as 90m or 7d.")]
Output = Annotated[
    Path | None, typer.Option(help="File for the answers \\[ID_output.jsonl].", show_default=False)
]
Errors = Annotated[
    Path | None, typer.Option(help="File for the errors \\[ID_error.jsonl].", show_default=False)
]


@batch.command("run")
def run_batch(
    file: Source,
    url: Url = None,
    api_key: ApiKey = None,
    endpoint: Endpoint = None,
    window: Window = "24h",
    output: Output = None,
    errors: Errors = None,
) -> None:
    """Submit a file, wait, and write its answers and errors. An interrupt leaves the batch."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with connect(url, api_key) as client:
        submitted = client.batches.submit(file, endpoint=endpoint, completion_window=window)
        finish(client, submitted, output, errors)


@batch.command("submit")
def submit_batch(
    file: Source,
    url: Url = None,
    api_key: ApiKey = None,
    endpoint: Endpoint = None,
    window: Window = "24h",
    as_json: AsJson = False,
) -> None:
    """Submit a file, and print the id of its batch for `falconer batch wait`."""
    with connect(url, api_key) as client:
        info = client.batches.submit(file, endpoint=endpoint, completion_window=window).info
    if as_json:
        print_json(info)
    else:
        show(info.id)


@batch.command("wait")
def wait_for_batch(
    batch_id: BatchId,
    url: Url = None,
    api_key: ApiKey = None,
    output: Output = None,
    errors: Errors = None,
) -> None:
    """Wait for a batch, and write its answers and errors."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with connect(url, api_key) as client:
        finish(client, client.batches.get(batch_id), output, errors)


@batch.command("list")
def list_batches(
    url: Url = None,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, help="Most batches to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List batches, the newest first."""
    with connect(url, api_key) as client:
        for info in client.batches.list(limit=limit):
            print_batch(info, as_json)


@batch.command("show")
def show_batch(
    batch_id: BatchId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show the state of a batch, and why its file was refused."""
    with connect(url, api_key) as client:
        info = client.batches.get(batch_id).info
    print_batch(info, as_json)
    if not as_json and info.errors is not None:
        for error in info.errors.data:
            show(f"{'file' if error.line is None else f'line {error.line}'}: {error.message}")


@batch.command("cancel")
def cancel_batches(
    batch_ids: Annotated[list[str], typer.Argument(help="Ids of batches.", show_default=False)],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Cancel batches. They keep their results so far."""
    with connect(url, api_key) as client:
        for batch_id in batch_ids:
            print_batch(client.batches.get(batch_id).cancel(), as_json)


def finish(client: "Client", running: "Batch", output: Path | None, errors: Path | None) -> None:
    """Wait for a batch and write its files. Exits with a code unless it has all its answers."""
    paths = {
        "output": output or Path(f"{running.id}_output.jsonl"),
        "error": errors or Path(f"{running.id}_error.jsonl"),
    }
    try:
        show(running.id, file=sys.stderr)
        follow(running)
        info = running.wait()
        for kind, file_id in (("output", info.output_file_id), ("error", info.error_file_id)):
            if file_id is not None:
                download(client, file_id, paths[kind])
                show(f"{kind}: {paths[kind]}", file=sys.stderr)
    except KeyboardInterrupt:
        again = f"falconer batch wait {running.id}"
        show(f"\nthe batch continues; `{again}` waits for it again", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print_batch(info, as_json=False)
    counts = info.request_counts
    if info.status != "completed" or counts.completed < counts.total:
        raise typer.Exit(INCOMPLETE)


def follow(running: "Batch") -> None:
    """Show the progress of a batch on a terminal until it has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(running.status, total=None)
        while True:
            counts = running.info.request_counts
            progress.update(
                task,
                description=running.status,
                completed=counts.completed + counts.failed,
                total=counts.total or None,
            )
            if running.status.is_final:
                return
            time.sleep(LOOK_S)
            running.refresh()


def download(client: "Client", file_id: str, path: Path) -> None:
    """Write a file of the service; an interrupt leaves no half of it. Raises InvalidRequest."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            for chunk in client.files.content(file_id):
                file.write(chunk)
        part.replace(path)
    except OSError as error:
        raise FalconerError(f"{path} must be a path to write to: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def print_batch(info: "BatchInfo", as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    counts = info.request_counts
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(info.created_at))
    show(
        f"{info.id}  {info.status:11}  {created}  "
        f"{counts.completed} of {counts.total} answered, {counts.failed} failed"
    )
