"""`make smoke-7b`: start the service with falcon-7b's shape and answer some requests.

Writes a checkpoint of random weights, starts `falconer serve` with default settings, and prints the
times, the speed and the peak memory. `--small` tries the command on any machine.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.figures import record
from bench.report import Report
from bench.service.servers import started, wait_until_healthy
from bench.service.service_bench import ServiceBench
from bench.workloads import WorkItem
from shared.errors import FalconerError
from shared.process.sockets import free_port
from worker.host_memory import format_bytes
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

PROMPT = "The falcon is a bird of prey that"
NUM_TOKENS = 16
ROWS = (1, 8)
CALL_TIMEOUT_S = 900.0
SAMPLE_S = 0.05


@dataclass(slots=True)
class Peak:
    """Peak memory in bytes that the kernel cannot reclaim."""

    whole: int = 0  # of all processes
    worker: int = 0
    with_files: int = 0  # of the worker, with mapped files


@dataclass
class PeakMemory:
    """Peak memory of a process tree in each phase; `phase` is the present one."""

    pid: int
    phase: str
    peaks: dict[str, Peak] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator["PeakMemory"]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            try:
                self._sample()
            except psutil.Error:  # a process has just ended
                continue

    def _sample(self) -> None:
        whole = 0
        peak = self.peaks.setdefault(self.phase, Peak())
        service = psutil.Process(self.pid)
        for process in [service, *service.children(recursive=True)]:
            memory = process.memory_info()
            held = memory.rss - getattr(memory, "shared", 0)
            whole += held
            if "worker" in process.cmdline():
                peak.worker = max(peak.worker, held)
                peak.with_files = max(peak.with_files, memory.rss)
        peak.whole = max(peak.whole, whole)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Start a service with falcon-7b's shape and answer some requests."
    )
    parser.add_argument(
        "folder", type=Path, help="folder of the checkpoint, written if it is missing"
    )
    parser.add_argument("--small", action="store_true", help="a small model of the same style")
    parser.add_argument("--quantization", help="of the worker's weights, such as int8")
    parser.add_argument("--figures", type=Path, help="file of all figures to add to")
    args = parser.parse_args()
    try:
        make_checkpoint(args.folder, full_size=not args.small)
        figures = serve(args.folder, args.quantization)
        print_figures(figures)
        if args.figures is not None:
            name = f"{args.folder.name}, {args.quantization or 'defaults'}"
            record(args.figures, ("serve", name), figures)
    except (FalconerError, ValueError, OSError) as error:
        print(f"smoke: {error}", file=sys.stderr)
        return 1
    return 0


def make_checkpoint(folder: Path, *, full_size: bool) -> None:
    if (folder / "tokenizer_config.json").is_file():
        print(f"checkpoint   {folder} exists")
        return
    started = time.perf_counter()
    write_random_checkpoint(folder, like="7b", full_size=full_size, dtype=torch.bfloat16)
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    print(
        f"checkpoint   {folder}, {format_bytes(num_bytes)} in bfloat16, "
        f"written in {time.perf_counter() - started:.0f} s",
        flush=True,
    )


def serve(folder: Path, quantization: str | None) -> dict[str, Any]:
    """Start the service, send requests, stop the service and return the figures."""
    with tempfile.TemporaryDirectory(prefix="falconer-smoke-") as state:
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-P", "-m", "falconer", "serve", "--model", str(folder)]
        command += ["--port", str(port), "--state-dir", state]
        env = os.environ | ({"FALCONER_QUANTIZATION": quantization} if quantization else {})
        output, begun = Path(state) / "output", time.perf_counter()
        with started(command, env, output) as service:
            with PeakMemory(service.pid, "loading").watched() as memory:
                wait_until_healthy(service, f"{url}/health", output)
                ready_s = time.perf_counter() - begun
                memory.phase = "serving"
                answers = {rows: send_requests(url, rows) for rows in ROWS}
        return {
            "loaded": loading_line(Path(state) / "logs" / "worker-1.log"),
            "ready_s": ready_s,
            "ttft_s": (answers[1].summary()["ttft_s"] or {})["p50"],
            "tokens_per_s": {str(rows): decoding_speed(r, rows) for rows, r in answers.items()},
            "peaks": {phase: asdict(peak) for phase, peak in memory.peaks.items()},
        }


def send_requests(url: str, rows: int) -> Report:
    """Send `rows` requests at once. Raises FalconerError if one fails."""
    kwargs = {"max_new_tokens": NUM_TOKENS, "eos_token_id": None}
    bench = ServiceBench(url, concurrency=rows, rate=None, stream=True, timeout_s=CALL_TIMEOUT_S)
    report = bench.run([WorkItem(prompt=PROMPT, generate_kwargs=kwargs)] * rows)
    for request in report.requests:
        if request.error is not None:
            raise FalconerError(f"/chat failed: {request.error}")
    return report


def decoding_speed(report: Report, rows: int) -> float:
    """Return tokens per second of all rows after their first tokens."""
    median: float = report.summary()["inter_token_s"]["p50"]
    return rows / median


def loading_line(log: Path) -> str:
    loaded = [line for line in log.read_text().splitlines() if "model loaded" in line]
    return " ".join(loaded[-1].split())


def print_figures(figures: dict[str, Any]) -> None:
    print(f"worker's log {figures['loaded']}")
    print(f"ready        after {figures['ready_s']:.1f} s")
    for phase, peak in figures["peaks"].items():
        print(
            f"peak memory  {phase}: worker {format_bytes(peak['worker'])} "
            f"({format_bytes(peak['with_files'])} with mapped files), "
            f"whole service {format_bytes(peak['whole'])}"
        )
    print(f"first token  after {figures['ttft_s']:.2f} s")
    for rows, speed in figures["tokens_per_s"].items():
        print(f"tokens/s     {speed:.2f} with {rows} row{'s' if rows != '1' else ''}")


if __name__ == "__main__":
    sys.exit(main())
