"""`falconer serve` as a newcomer runs it: real processes, the bundled model, curl's requests."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serve.embedded_redis import free_port
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

    def worker_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        return [p for p in pids if b"worker" in Path(f"/proc/{p}/cmdline").read_bytes()]

    def chat(self, prompt: str) -> str:
        kwargs = {"do_sample": False, "max_new_tokens": 12}
        answer = self.client.post("/chat", json={"prompt": prompt, "generate_kwargs": kwargs})
        assert answer.status_code == 200, answer.text
        result: str = answer.json()["Result"]
        return result


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    port = free_port()
    output = tmp_path / "output"
    flags = ["--port", str(port), "--state-dir", str(tmp_path / "state")]
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "falconer", "serve", *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
        yield Service(process, output, client)
    end(process)


def test_a_newcomer_gets_a_screen_that_works_and_ctrl_c_drains(service: Service) -> None:
    service.wait_for(r"Falconer is ready on http://127\.0\.0\.1:\d+")
    assert service.output.read_text().count("curl -s") == 3
    assert service.chat("Once upon a time").startswith("Once upon a time")
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(PATIENCE_S) == 0
    assert "Stopped." in service.output.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker through /proc")
def test_a_killed_worker_is_restarted_and_the_service_answers_again(service: Service) -> None:
    service.wait_for("Falconer is ready")
    before = service.chat("The lighthouse")
    (worker,) = service.worker_pids()
    os.kill(worker, signal.SIGKILL)
    line = service.wait_for(r"worker 1 \(pid (\d+)\) was killed by SIGKILL; restarting it")
    assert int(line[1]) == worker
    service.wait_for(r"worker 1 runs again as pid \d+")
    assert service.chat("The lighthouse") == before


def test_a_second_service_on_the_same_state_folder_is_refused(service: Service) -> None:
    service.wait_for("Falconer is ready")
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
