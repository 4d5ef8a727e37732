"""`python -m bench.service.load_tools`: what other load generators report of `falconer serve`.

In each round our own load generator, guidellm and `vllm bench serve` send the same load in turn:
streams of `/v1/completions` for prompts of one length, from clients that wait for each answer. The
api measures the times of each run too, so a machine whose speed drifts does not matter to them.
"""

import json
import os
import random
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from bench.peers.compare import ensure_model
from bench.peers.environments import VLLM, Environment
from bench.report import Report
from bench.service.load import Load, run_load, text_of_length
from bench.service.routes import Completions
from bench.service.servers import Conditions, Server, falconer_server
from bench.workloads import WorkItem
from shared.errors import FalconerError

GUIDELLM = ("guidellm==0.8.1",)
TIMEOUT_S = 900.0
API_TIMES = ("falconer_time_to_first_token_seconds", "falconer_inter_token_seconds")
MAX_ERROR_CHARS = 1000
OURS = "bench.service.load"
# `vllm bench serve` without the command's look-up of the version, which fails in the CPU build.
VLLM_BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load generator reports. Times are means."""

    tokens_per_s: float
    ttft_ms: float
    inter_token_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a load generator: its figures, and the mean times that the api measured."""

    reported: Figures
    api_ttft_ms: float
    api_inter_token_ms: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The load: requests of equal lengths from `clients` at once."""

    requests: int
    clients: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Target:
    """The server, the name of its model, and the folder with its tokenizer."""

    server: Server
    model: str
    tokenizer: Path


@dataclass(frozen=True, slots=True)
class LoadTool:
    """A load generator in an environment of its own."""

    name: str
    requirements: tuple[str, ...]
    program: tuple[str, ...]  # arguments of Python
    arguments: Callable[[Target, Shape, Path, Path], list[str]]  # files of prompts and figures
    figures: Callable[[dict[str, Any], Shape], Figures]

    def run(self, peers: Path, target: Target, shape: Shape, prompts: list[str]) -> Figures:
        """Send the load; return the figures. Raises FalconerError if the tool fails."""
        peer = Environment(peers / self.name, self.requirements)
        peer.ensure()
        with tempfile.TemporaryDirectory(prefix="falconer-bench-") as folder:
            lines, result = Path(folder) / "prompts.jsonl", Path(folder) / "figures.json"
            lines.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
            done = subprocess.run(
                [
                    *(str(peer.python), *self.program),
                    *self.arguments(target, shape, lines, result),
                ],
                env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": folder, "NO_PROXY": "*"},
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            if done.returncode or not result.exists():
                raise FalconerError(f"{self.name} failed: {done.stderr[-MAX_ERROR_CHARS:]}")
            return self.figures(json.loads(result.read_text()), shape)


def guidellm_arguments(target: Target, shape: Shape, prompts: Path, result: Path) -> list[str]:
    backend = {
        "kind": "openai_http",
        "target": target.server.url,
        "model": target.model,
        "request_format": "/v1/completions",
        "extras": {"body": {"temperature": 0, "max_tokens": shape.new_tokens, "ignore_eos": True}},
    }
    tokenizer = f"kind=huggingface_auto,model={target.tokenizer}"
    return [
        *("run", "--backend", json.dumps(backend), "--tokenizer", tokenizer),
        *("--profile", f"kind=concurrent,streams={shape.clients}"),
        *("--constraint", f"kind=max_requests,count={shape.requests}"),
        *("--data", f"kind=json_file,path={prompts}"),
        *("--output", f"kind=json,path={result}", "--disable-console"),
    ]


def guidellm_figures(report: dict[str, Any], shape: Shape) -> Figures:
    [benchmark] = report["benchmarks"]
    metrics = {
        name: figure["successful"]
        for name, figure in benchmark["metrics"].items()
        if isinstance(figure, dict) and "successful" in figure
    }
    totals = benchmark["metrics"]["request_totals"]
    if totals["successful"] != shape.requests:
        raise FalconerError(f"guidellm had other requests than {shape.requests}: {totals}")
    check_tokens("guidellm", metrics["output_token_count"]["total_sum"], shape)
    return Figures(
        tokens_per_s=metrics["output_tokens_per_second"]["mean"],
        ttft_ms=metrics["time_to_first_token_ms"]["mean"],
        inter_token_ms=metrics["inter_token_latency_ms"]["mean"],
    )


def vllm_arguments(target: Target, shape: Shape, prompts: Path, result: Path) -> list[str]:
    return [
        *("--backend", "openai", "--base-url", target.server.url),
        *("--endpoint", "/v1/completions", "--model", target.model),
        *("--tokenizer", str(target.tokenizer), "--dataset-name", "random"),
        *("--random-input-len", str(shape.prompt_tokens), "--random-range-ratio", "0"),
        *("--random-output-len", str(shape.new_tokens), "--num-prompts", str(shape.requests)),
        *("--max-concurrency", str(shape.clients), "--temperature", "0", "--ignore-eos"),
        *("--save-result", "--result-dir", str(result.parent), "--result-filename", result.name),
    ]


def vllm_figures(report: dict[str, Any], shape: Shape) -> Figures:
    check_tokens("vllm bench serve", report["total_output_tokens"], shape)
    return Figures(
        tokens_per_s=report["output_throughput"],
        ttft_ms=report["mean_ttft_ms"],
        inter_token_ms=report["mean_itl_ms"],
    )


TOOLS = (
    LoadTool("guidellm", GUIDELLM, ("-m", "guidellm"), guidellm_arguments, guidellm_figures),
    LoadTool("vllm", VLLM, ("-c", VLLM_BENCH_SERVE), vllm_arguments, vllm_figures),
)


def check_tokens(name: str, num_tokens: float, shape: Shape) -> None:
    """Raise FalconerError unless every request had all its tokens."""
    expected = shape.requests * shape.new_tokens
    if num_tokens != expected:
        raise FalconerError(f"{name} counted {num_tokens:g} tokens, not {expected}")


def our_figures(report: Report) -> Figures:
    first = [request.ttft_s for request in report.requests if request.ttft_s is not None]
    gaps = [gap for request in report.requests for gap in request.inter_token_s]
    return Figures(
        tokens_per_s=report.summary()["tokens_per_s"],
        ttft_ms=1000 * statistics.mean(first),
        inter_token_ms=1000 * statistics.mean(gaps),
    )


def run_ours(target: Target, shape: Shape, prompts: list[str]) -> Figures:
    kwargs = {"max_new_tokens": shape.new_tokens}
    items = [WorkItem(prompt=text, generate_kwargs=kwargs) for text in prompts]
    load = Load("closed loop", shape.requests, clients=shape.clients)
    return our_figures(run_load(target.server, items, load))


def measure(
    folder: Annotated[
        Path, typer.Option(help="Folder for the model and the tools' environments.")
    ] = Path(".falconer/bench"),
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; by default 122 M random parameters.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each run.")] = 96,
    clients: Annotated[int, typer.Option(min=1, help="Clients at once.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 64,
    new_tokens: Annotated[int, typer.Option(min=2)] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Figures are medians over the rounds.")] = 3,
) -> None:
    """Show the figures of each load generator, and their ratios to ours."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = model.resolve() if model else ensure_model(folder / "model-bfloat16")
    shape = Shape(requests, clients, prompt_tokens, new_tokens)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    draw = random.Random(0)  # each run has prompts of its own, so that no cache knows them

    def prompts() -> list[str]:
        return [text_of_length(tokenizer, prompt_tokens, draw) for _ in range(requests)]

    conditions = Conditions(checkpoint, os.cpu_count() or 1, 64, folder / "peers")
    with falconer_server(conditions) as server:
        route = server.route
        assert isinstance(route, Completions)
        target = Target(server, route.model, checkpoint)
        run_ours(target, shape, prompts())  # warm-up
        sides = {OURS: partial(run_ours, target, shape)}
        sides |= {tool.name: partial(tool.run, conditions.peers, target, shape) for tool in TOOLS}
        measured = [
            {name: watched(server.url, partial(run, prompts())) for name, run in sides.items()}
            for _ in range(rounds)
        ]
    Console().print(table_of(measured))


def watched(url: str, run: Callable[[], Figures]) -> Run:
    """Return what a load generator reports of its run, and what the api measured meanwhile."""
    before = api_sums(url)
    reported = run()
    after = api_sums(url)
    ttft_ms, inter_token_ms = (
        1000
        * (after[f"{name}_sum"] - before[f"{name}_sum"])
        / (after[f"{name}_count"] - before[f"{name}_count"])
        for name in API_TIMES
    )
    return Run(reported, ttft_ms, inter_token_ms)


def api_sums(url: str) -> dict[str, float]:
    """Return the sums and the counts of the api's times, by their names in `/metrics`."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        if family.name in API_TIMES
        for sample in family.samples
    }


def table_of(measured: list[dict[str, Run]]) -> Table:
    """Return the medians over the rounds; of ratios too, over ours and over the api's times."""
    headings = ("tokens/s (over ours)", "TTFT, ms (over the api's)", "between tokens, ms (api's)")
    table = Table("load generator", *headings, box=None)
    for name in measured[0]:
        runs = [one[name] for one in measured]
        ours = [one[OURS].reported.tokens_per_s for one in measured]
        table.add_row(
            name,
            cell([run.reported.tokens_per_s for run in runs], ours),
            cell([run.reported.ttft_ms for run in runs], [run.api_ttft_ms for run in runs]),
            cell(
                [run.reported.inter_token_ms for run in runs],
                [run.api_inter_token_ms for run in runs],
            ),
        )
    return table


def cell(values: list[float], references: list[float]) -> str:
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return f"{statistics.median(values):.1f} ({statistics.median(ratios):.2f})"


if __name__ == "__main__":
    typer.run(measure)
