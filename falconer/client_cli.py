"""Define `falconer chat` and `falconer jobs`, which call a running service with the client."""

import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import msgspec
import typer

from shared.errors import FalconerError
from shared.protocol import JobStatus

if TYPE_CHECKING:
    from falconer.client import Client, Job, JobInfo

jobs = typer.Typer(no_args_is_help=True, help="List, follow, cancel and retry jobs.")

# A terminal obeys control characters; the text of another user's job may contain them.
CONTROLS = {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
ESCAPES = {code: f"\\u{code:04x}" for code in CONTROLS}

Url = Annotated[
    str | None,
    typer.Option(help="Address of the service \\[FALCONER_URL, default http://127.0.0.1:8000]."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(help="API key; the process list shows it, the variable FALCONER_API_KEY not."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(help="Id of the job.", show_default=False)]


def connect(url: str | None, api_key: str | None) -> "Client":
    from falconer.client import Client

    return Client(url, api_key=api_key)


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="Message; else stdin, or a conversation on a terminal.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    system: Annotated[str | None, typer.Option(help="Message of the system, first.")] = None,
    model: Annotated[str | None, typer.Option(help="Served model or adapter.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Divides the logits.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats an answer.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Do not sample.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for an answer, or have a conversation on a terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an interrupt cancels the job
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "do_sample": not greedy,
    }
    kwargs = {name: value for name, value in options.items() if value is not None}
    with connect(url, api_key) as client:
        conversation = Conversation(client, system, model, kwargs)
        if prompt is None and sys.stdin.isatty():
            converse(conversation)
            return
        text = sys.stdin.read() if prompt is None else prompt
        if as_json:
            print_json(client.chat(**conversation.request(text)))
        else:
            conversation.say(text)


class Conversation:
    """The messages so far, which each request repeats."""

    def __init__(
        self, client: "Client", system: str | None, model: str | None, kwargs: dict[str, Any]
    ) -> None:
        self._client = client
        self._model = model
        self._kwargs = kwargs
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def request(self, text: str) -> dict[str, Any]:
        """Return the arguments of the client for the conversation with one more message."""
        return {
            "prompt": [*self._messages, {"role": "user", "content": text}],
            "model": self._model,
            "handle_long_generation": "hole",
            "generate_kwargs": self._kwargs,
        }

    def say(self, text: str) -> None:
        """Print the answer as it arrives, and add both messages. An interrupt cancels the job."""
        request = self.request(text)
        job = self._client.submit(**request)
        try:
            print_stream(job)
        finally:
            job.abandon()
        answer = job.wait().text.strip()
        self._messages = [*request["prompt"], {"role": "assistant", "content": answer}]


def converse(conversation: Conversation) -> None:
    """Answer each line of the terminal until it ends."""
    with suppress(ImportError):
        import_module("readline")  # `input` then edits lines and has a history
    print("Ctrl-C stops an answer, Ctrl-D ends the conversation.", file=sys.stderr)
    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not text.strip():
            continue
        try:
            conversation.say(text)
        except KeyboardInterrupt:
            print()
        except FalconerError as error:
            show(f"falconer: {error.message}", file=sys.stderr)


@jobs.command("list")
def list_jobs(
    url: Url = None,
    api_key: ApiKey = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    with connect(url, api_key) as client:
        for info in client.jobs(status, limit=limit):
            print_job(info, as_json)


@jobs.command("show")
def show_job(
    job_id: JobId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show the state of a job, and its result."""
    with connect(url, api_key) as client:
        info = client.job(job_id).info
    if as_json:
        print_json(info)
        return
    for name, value in msgspec.to_builtins(info).items():
        if name not in ("result", "error"):
            show(f"{name}: {value}")
    if info.error is not None:
        show(f"error: {info.error.message}")
    for sequence in info.result.sequences if info.result else ():
        show(f"\n{sequence.text}")


@jobs.command("follow")
def follow_job(
    job_id: JobId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Print the text of a job from its start to its end."""
    with connect(url, api_key) as client:
        job = client.job(job_id)
        if as_json:
            for delta in job.stream():
                print_json(delta)
            print_json(job.info)
        else:
            print_stream(job)


@jobs.command("cancel")
def cancel_jobs(
    job_ids: Annotated[list[str], typer.Argument(help="Ids of jobs.", show_default=False)],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Cancel queued or running jobs."""
    with connect(url, api_key) as client:
        for job_id in job_ids:
            print_job(client.job(job_id).cancel(), as_json)


@jobs.command("retry")
def retry_job(
    job_id: JobId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Run a job that failed, expired or was cancelled again, as a new job."""
    with connect(url, api_key) as client:
        print_job(client.job(job_id).retry().info, as_json)


def print_stream(job: "Job") -> None:
    """Print the first sequence as it arrives, then the others. Raises JobFailed."""
    shown = ""
    for delta in job.stream():
        if delta.sequence == 0:
            show(delta.text if shown else delta.text.lstrip(), end="")
            shown += delta.text
    first, *others = job.wait().sequences
    if first.text.startswith(shown):
        rest = first.text.removeprefix(shown)  # all of it after a beam search
    else:
        rest = ""  # `clean_up_tokenization_spaces` changes the result, not the deltas
    show(rest if shown else rest.lstrip())
    for sequence in others:
        show(f"\n{sequence.text}")


def print_job(info: "JobInfo", as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    times = " ".join(
        f"{name} {value} ms"
        for name, value in (("queued", info.queue_ms), ("ran", info.run_ms))
        if value is not None
    )
    print(f"{info.id}  {info.status:9}  {info.created_at:%Y-%m-%d %H:%M:%S}  {times}".rstrip())


def print_json(value: object) -> None:
    show(msgspec.json.encode(value).decode())


def show(text: str, end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text, on a terminal with its control characters as `\\u` escapes."""
    out = sys.stdout if file is None else file
    print(text.translate(ESCAPES) if out.isatty() else text, end=end, file=out, flush=True)
