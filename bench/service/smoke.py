"""`make smoke-7b`: start the service with falcon-7b's shape and answer one request.

Writes a checkpoint of random weights, starts `falconer serve` with default settings, and prints the
times and the peak memory. `--small` tries the command on any machine.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import torch

from bench.report import RequestReport
from bench.service.service_bench import ServiceBench
from bench.workloads import WorkItem
from serve.embedded_redis import free_port
from shared.errors import FalconerError
from worker.host_memory import format_bytes
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

PROMPT = "The falcon is a bird of prey that"
NUM_TOKENS = 16
START_TIMEOUT_S = 1800.0
STOP_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 900.0
SAMPLE_S = 0.05


@dataclass
class PeakMemory:
    """Peak memory of a process tree in bytes that the kernel cannot reclaim."""

    pid: int
    whole: int = 0
    worker: int = 0
    with_files: int = 0  # of the worker, with mapped files
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
        service = psutil.Process(self.pid)
        for process in [service, *service.children(recursive=True)]:
            memory = process.memory_info()
            held = memory.rss - getattr(memory, "shared", 0)
            whole += held
            if "worker" in process.cmdline():
                self.worker = max(self.worker, held)
                self.with_files = max(self.with_files, memory.rss)
        self.whole = max(self.whole, whole)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Start a service with falcon-7b's shape and answer one request."
    )
    parser.add_argument(
        "folder", type=Path, help="folder of the checkpoint, written if it is missing"
    )
    parser.add_argument("--small", action="store_true", help="a small model of the same style")
    args = parser.parse_args()
    try:
        make_checkpoint(args.folder, full_size=not args.small)
        serve(args.folder)
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


def serve(folder: Path) -> None:
    """Start the service, send one request, stop the service and print the figures."""
    with tempfile.TemporaryDirectory(prefix="falconer-smoke-") as state:
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-P", "-m", "falconer", "serve", "--model", str(folder)]
        place = ["--port", str(port), "--state-dir", state]
        started = time.perf_counter()
        output = Path(state) / "output"
        with output.open("wb") as out:
            service = subprocess.Popen([*command, *place], stdout=out, stderr=out)
        try:
            with PeakMemory(service.pid).watched() as peak:
                wait_until_healthy(service, url, output)
                ready_s = time.perf_counter() - started
                answer = send_request(url)
        finally:
            stop(service)
        print_figures(Path(state) / "logs" / "worker-1.log", peak, ready_s, answer)


def wait_until_healthy(service: "subprocess.Popen[bytes]", url: str, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise FalconerError(f"the service exited: {output.read_text(errors='replace').strip()}")
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise FalconerError(f"the service was not ready within {START_TIMEOUT_S:.0f} s")


def send_request(url: str) -> RequestReport:
    kwargs = {"max_new_tokens": NUM_TOKENS, "eos_token_id": None}
    bench = ServiceBench(url, concurrency=1, rate=None, stream=True, timeout_s=CALL_TIMEOUT_S)
    [answer] = bench.run([WorkItem(prompt=PROMPT, generate_kwargs=kwargs)]).requests
    if answer.error is not None or answer.ttft_s is None or answer.latency_s is None:
        raise FalconerError(f"/chat failed: {answer.error}")
    return answer


def print_figures(log: Path, peak: PeakMemory, ready_s: float, answer: RequestReport) -> None:
    assert answer.ttft_s is not None and answer.latency_s is not None
    num_tokens = answer.output_tokens
    decoding_s = answer.latency_s - answer.ttft_s
    loaded = [line for line in log.read_text().splitlines() if "model loaded" in line]
    print(f"worker's log {' '.join(loaded[-1].split())}")
    print(f"ready        after {ready_s:.1f} s")
    print(
        f"peak memory  worker {format_bytes(peak.worker)} "
        f"({format_bytes(peak.with_files)} with mapped files), "
        f"whole service {format_bytes(peak.whole)}"
    )
    print(f"first token  after {answer.ttft_s:.2f} s")
    print(
        f"tokens/s     {(num_tokens - 1) / decoding_s:.2f} after the first, "
        f"{num_tokens / answer.latency_s:.2f} over all {num_tokens}"
    )


def stop(service: "subprocess.Popen[bytes]") -> None:
    service.send_signal(signal.SIGTERM)
    try:
        service.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()


if __name__ == "__main__":
    sys.exit(main())
