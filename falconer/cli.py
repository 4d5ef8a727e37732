"""Define the commands: `falconer serve | api | worker | chat | jobs | batch | keys | bench
| model`.

Each process takes one flag per field of its settings class. A command imports what it needs when
it runs, so that `falconer api` never imports torch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.settings import ApiSettings
from bench.report import check_output, finish_bench
from bench.workloads import read_workload
from falconer import batch_cli, client_cli, keys_cli
from serve.settings import ServeSettings
from shared.errors import FalconerError
from shared.process.cli_options import SettingsCommand
from worker.settings import WorkerSettings

app = typer.Typer(
    name="falconer",
    help="Falcon language models behind a queue.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(no_args_is_help=True, help="Measure the engine, or a running service.")
model = typer.Typer(no_args_is_help=True, help="Write and describe checkpoints.")
app.add_typer(bench, name="bench")
app.add_typer(model, name="model")

Requests = Annotated[
    Path, typer.Option(help="JSON lines of {prompt | prompt_ids, generate_kwargs}.")
]
Quantization = Annotated[
    str | None, typer.Option(help="Smaller weights: int8, int8-weight-only, int4 or fp8.")
]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")]


def run_serve(settings: ServeSettings) -> int:
    from serve.main import main

    return main(settings)


def run_api(settings: ApiSettings) -> int:
    from api.server import main

    return main(settings)


def run_worker(settings: WorkerSettings) -> int:
    from worker.main import main

    return main(settings)


app.command("serve", help="Run the whole service on this machine.")(
    SettingsCommand(ServeSettings, run_serve)
)
app.command("api", help="Run the HTTP API.")(SettingsCommand(ApiSettings, run_api))
app.command("worker", help="Run a worker, which claims jobs and runs the model.")(
    SettingsCommand(WorkerSettings, run_worker)
)
app.command("chat")(client_cli.chat)
app.add_typer(client_cli.jobs, name="jobs")
app.add_typer(batch_cli.batch, name="batch")
app.add_typer(keys_cli.keys, name="keys")


@bench.command("engine", help="Measure the engine alone on a workload.")
def bench_engine(
    requests: Requests,
    json_out: JsonOut = None,
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")] = "tiny",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Concurrent requests; all by default.")
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of rows in a step.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    quantization: Quantization = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a step.")] = None,
    kv_dtype: Annotated[str, typer.Option(help="Of the KV cache: auto or int8.")] = "auto",
) -> None:
    from bench.engine.engine_bench import EngineBench

    check_output(json_out)
    bench = EngineBench(
        model, concurrency, max_rows, dtype, device, executor, quantization, threads, kv_dtype
    )
    raise typer.Exit(finish_bench(bench.run(read_workload(requests)), json_out))


@bench.command("service", help="Measure a running service on a workload.")
def bench_service(
    requests: Requests,
    json_out: JsonOut = None,
    url: Annotated[str, typer.Option(help="Base address.")] = "http://127.0.0.1:8000",
    concurrency: Annotated[int | None, typer.Option(min=1, help="Concurrent requests.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests per second, with Poisson arrivals.")
    ] = None,
    stream: Annotated[bool, typer.Option(help="Stream, to measure the first token.")] = True,
    timeout_s: Annotated[float, typer.Option(help="Timeout of a request.")] = 600.0,
) -> None:
    from bench.service.service_bench import ServiceBench

    check_output(json_out)
    bench = ServiceBench(url, concurrency, rate, stream, timeout_s)
    raise typer.Exit(finish_bench(bench.run(read_workload(requests)), json_out))


@model.command("tiny", help="Write the bundled tiny trained Falcon to a folder.")
def model_tiny(directory: Path) -> None:
    from worker.model_cli import write_tiny

    write_tiny(directory)


@model.command("random", help="Write a checkpoint of random weights in one of Falcon's styles.")
def model_random(
    directory: Path,
    like: Annotated[str, typer.Option(help="7b, 40b, 11b or rw.")] = "7b",
    full_size: Annotated[
        bool, typer.Option(help="Use the published sizes, not small sizes.")
    ] = False,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    num_kv_heads: Annotated[int | None, typer.Option(help="For 40b and 11b.")] = None,
    vocab_size: int | None = None,
    context_length: int | None = None,
    seed: int = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    max_shard_size: Annotated[
        str, typer.Option(help="Maximum size of a weights file, such as 5GB.")
    ] = "5GB",
) -> None:
    from worker.model_cli import write_random

    write_random(
        directory,
        like=like,
        full_size=full_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        vocab_size=vocab_size,
        context_length=context_length,
        seed=seed,
        dtype=dtype,
        max_shard_size=max_shard_size,
    )


@model.command("info", help="Describe a checkpoint, and how many rows fit in memory.")
def model_info(
    source: Annotated[str, typer.Argument(help="Folder, hub id or `tiny`.")],
    memory: Annotated[
        str | None, typer.Option(help="Show what a worker takes of this much, such as 80GiB.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default a worker's choice.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of the memory: cuda or cpu.")] = "cuda",
    max_rows: Annotated[int | None, typer.Option(min=1, help="Setting of the worker.")] = None,
    block_size: Annotated[int, typer.Option(min=1, help="Setting of the worker.")] = 32,
    quantization: Quantization = None,
) -> None:
    from worker.engine import EngineConfig
    from worker.model_cli import show_info

    show_info(
        source,
        memory=memory,
        dtype=dtype,
        quantization=quantization,
        device=device,
        config=EngineConfig.for_machine(device, max_rows=max_rows, block_size=block_size),
    )


def main() -> None:
    """Run a command; an error that the user can fix is one line and exit code 2."""
    try:
        app()
    except FalconerError as error:
        client_cli.show(f"falconer: {error.message}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f"falconer: {missing_package(error)}", file=sys.stderr)
        sys.exit(2)


def missing_package(error: ModuleNotFoundError) -> str:
    """Return the error message for an installation without the extra that a command needs."""
    return (
        f"this command needs the package {error.name}, which is not installed; "
        "the extras are falconer[api], falconer[worker] and falconer[serve] (both)"
    )
