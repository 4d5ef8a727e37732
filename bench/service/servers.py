"""Start servers as processes of their own on free loopback ports: `falconer serve` and vLLM's."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.peers.environments import VLLM, Environment
from bench.process import environment
from bench.service.routes import Completions, Route
from shared.errors import FalconerError
from shared.process.sockets import free_port

START_TIMEOUT_S = 1800.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.2
CONTEXT_LENGTH = 2048
KV_CACHE_GIB = "4"
MAX_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    route: Route


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is equal for both servers."""

    model: Path
    threads: int
    max_rows: int
    peers: Path  # folder of the peers' environments


@contextmanager
def falconer_server(conditions: Conditions) -> Iterator[Server]:
    """Start `falconer serve` with one worker, wait until it is ready, and stop it at exit."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory(prefix="falconer-bench-") as folder:
        command = [sys.executable, "-P", "-m", "falconer", "serve"]
        command += ["--model", str(conditions.model), "--port", str(port), "--state-dir", folder]
        variables = {
            "FALCONER_THREADS": str(conditions.threads),
            "FALCONER_MAX_ROWS": str(conditions.max_rows),
        }
        env = environment(conditions.threads, variables)
        with running(command, env, f"{url}/health", Path(folder) / "output"):
            yield Server(url, Completions(served_model(url)))


@contextmanager
def vllm_server(conditions: Conditions) -> Iterator[Server]:
    """Start vLLM's OpenAI server in bfloat16, wait until it is ready, and stop it at exit."""
    peer = Environment(conditions.peers / "vllm", VLLM)
    peer.ensure()
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [str(peer.python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", str(conditions.model), "--dtype", "bfloat16"]
    command += ["--max-num-seqs", str(conditions.max_rows), "--no-enable-prefix-caching"]
    command += ["--max-model-len", str(CONTEXT_LENGTH)]
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": KV_CACHE_GIB,
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{conditions.threads - 1}",
        "VLLM_NO_USAGE_STATS": "1",
    }
    env = environment(conditions.threads, variables)
    with tempfile.TemporaryDirectory(prefix="vllm-bench-") as folder:
        with running(command, env, f"{url}/health", Path(folder) / "output"):
            yield Server(url, Completions(served_model(url)))


def served_model(url: str) -> str:
    """Return the name of the first model that a server lists."""
    response = httpx.get(f"{url}/v1/models", timeout=30, trust_env=False)
    name: str = response.raise_for_status().json()["data"][0]["id"]
    return name


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], health: str, output: Path
) -> Iterator[None]:
    """Run a server that is ready, until exit. Raises FalconerError as `wait_until_healthy` does."""
    with started(command, env, output) as process:
        wait_until_healthy(process, health, output)
        yield


@contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str], output: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a server, yield its process and stop it at exit."""
    with output.open("wb") as out:
        process = subprocess.Popen(command, env=dict(env), stdout=out, stderr=out)
    try:
        yield process
    finally:
        stop(process)


def wait_until_healthy(process: "subprocess.Popen[bytes]", health: str, output: Path) -> None:
    """Wait until `health` is 200. Raises FalconerError if the server exits, or after a limit."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            end_of_output = " ".join(output.read_text(errors="replace").split())[-MAX_ERROR_CHARS:]
            raise FalconerError(f"the server exited: {end_of_output}")
        try:
            if httpx.get(health, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(POLL_S)
    raise FalconerError(f"the server was not ready within {START_TIMEOUT_S:.0f} s")


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
