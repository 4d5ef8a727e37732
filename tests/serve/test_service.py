"""`falconer serve` with real processes and the bundled model."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.access.api_keys import ApiKey, digest_of, new_secret
from shared.access.key_file import change_keys
from shared.process.sockets import free_port
from tests.processes import end

PATIENCE_S = 120.0


@dataclass
class Service:
    process: "subprocess.Popen[bytes]"
    output: Path
    client: httpx.Client

    def wait_for(self, pattern: str) -> "re.Match[str]":
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self.output.read_text())):
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.output.read_text()}"
            time.sleep(0.05)
        return found

    def children(self) -> dict[int, bytes]:
        """Return the command lines of the running children by pid."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
        return {pid: line for pid, line in lines.items() if line}

    def worker_pids(self) -> list[int]:
        return [pid for pid, line in self.children().items() if b"worker" in line]

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_healthy():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def is_healthy(self) -> bool:
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def chat(self, prompt: str) -> str:
        kwargs = {"do_sample": False, "max_new_tokens": 12}
        answer = self.client.post("/chat", json={"prompt": prompt, "generate_kwargs": kwargs})
        assert answer.status_code == 200, answer.text
        result: str = answer.json()["Result"]
        return result


@contextmanager
def running(tmp_path: Path, *prefix: str, **env: str) -> Iterator[Service]:
    """Run `falconer serve` with the command `prefix` before it, and its output in a file."""
    port = free_port()
    output = tmp_path / "output"
    flags = ["--port", str(port), "--state-dir", str(tmp_path / "state")]
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "falconer", "serve", *flags],
            env=os.environ | env,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
        yield Service(process, output, client)
    end(process)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


@pytest.fixture(scope="module")
def background_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run `nohup falconer serve | head -1 > output` with a Latin-1 locale."""
    directory = tmp_path_factory.mktemp("background")
    pipe = ["bash", "-c", 'exec nohup "$@" > >(exec head -1)', "bash"]
    with running(directory, *pipe, PYTHONIOENCODING="latin-1") as service:
        yield service


def test_the_printed_address_works_and_ctrl_c_drains(tmp_path: Path) -> None:
    """With API keys, of which the service itself needs none."""
    file, secret = tmp_path / "keys.json", new_secret()
    change_keys(file, lambda _: [ApiKey(name="alice", sha256=digest_of(secret))])
    with running(tmp_path, FALCONER_KEYS_FILE=str(file)) as service:
        service.wait_for(r"Falconer is ready on http://127\.0\.0\.1:\d+")
        assert service.output.read_text().count("curl -s") == 3
        assert service.output.read_text().count("Bearer $FALCONER_API_KEY") == 3
        assert service.client.post("/chat", json={"prompt": "hi"}).status_code == 401
        service.client.headers["Authorization"] = f"Bearer {secret}"
        assert service.chat("Once upon a time").startswith("Once upon a time")
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(PATIENCE_S) == 0
        assert "Stopped." in service.output.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker through /proc")
def test_a_killed_worker_is_restarted(service: Service) -> None:
    service.wait_for("Falconer is ready")
    before = service.chat("The lighthouse")
    (worker,) = service.worker_pids()
    os.kill(worker, signal.SIGKILL)
    line = service.wait_for(r"worker 1 \(pid (\d+)\) was killed by SIGKILL.*; restarting it")
    assert int(line[1]) == worker
    service.wait_for(r"worker 1 runs again as pid \d+")
    assert service.chat("The lighthouse") == before


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children through /proc")
def test_a_service_under_nohup_survives_its_terminal_and_the_reader_of_its_output(
    background_service: Service,
) -> None:
    service = background_service
    service.wait_until_healthy()
    children = service.children()
    assert len(children) == 3  # Redis, the api and a worker
    for pid in (service.process.pid, *children):
        os.kill(pid, signal.SIGHUP)
    assert service.chat("Once upon a time").startswith("Once upon a time")
    assert service.children() == children
    assert service.output.read_text().count("\n") == 1  # the reader closed the pipe


def test_a_second_service_with_the_same_state_folder_is_rejected(
    background_service: Service,
) -> None:
    service = background_service
    service.wait_until_healthy()
    state_dir = service.output.parent / "state"
    flags = ["--port", str(free_port()), "--state-dir", str(state_dir)]
    second = subprocess.run(
        [sys.executable, "-m", "falconer", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )
    assert second.returncode == 2
    assert "another falconer serve uses" in second.stderr


def test_a_shutdown_with_a_closed_stdout_exits_with_0(
    background_service: Service,
) -> None:
    background_service.wait_until_healthy()
    background_service.process.send_signal(signal.SIGTERM)
    assert background_service.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in background_service.output.read_text()
