"""The supervision of real child processes."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.child import Child

PATIENCE_S = 30.0


def child_running(code: str, log: Path, stdin: str | None = None) -> Child:
    return Child("child", [sys.executable, "-c", code], os.environ, log, stdin)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = child_running("import time; time.sleep(60)", tmp_path / "log")
    yield child
    child.wait(time.monotonic())


def test_a_child_is_not_running_before_its_start(sleeper: Child) -> None:
    assert not sleeper.is_running
    assert sleeper.returncode is None


def test_a_killed_child_is_restarted_and_the_message_names_the_signal(sleeper: Child) -> None:
    sleeper.start()
    first = sleeper.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not sleeper.is_running)
    messages: list[str] = []
    sleeper.restart_if_dead(messages.append)
    assert sleeper.is_running
    assert sleeper.pid != first
    assert "was killed by SIGKILL (as the kernel does when memory runs out)" in messages[0]
    assert f"pid {sleeper.pid}" in messages[1]


def test_a_running_child_is_not_restarted(sleeper: Child) -> None:
    sleeper.start()
    first = sleeper.pid
    sleeper.restart_if_dead(lambda line: pytest.fail(line))
    assert sleeper.pid == first


def test_a_child_that_exits_early_twice_is_restarted_after_a_delay(tmp_path: Path) -> None:
    child = child_running("raise SystemExit(3)", tmp_path / "log")
    messages: list[str] = []
    child.start()
    wait_until(lambda: child.returncode == 3)
    child.restart_if_dead(messages.append)
    wait_until(lambda: child.returncode == 3)
    child.restart_if_dead(messages.append)
    assert not child.is_running
    assert "ended with exit code 3; restarting it in 1 s" in messages[-1]


def test_the_last_line_of_the_log_is_returned(tmp_path: Path) -> None:
    child = child_running("print('loading'); print('no such model')", tmp_path / "log")
    child.start()
    wait_until(lambda: child.returncode == 0)
    assert child.last_line() == "no such model"


def test_standard_input_reaches_the_child_on_every_start(tmp_path: Path) -> None:
    child = child_running("import sys; print(sys.stdin.read())", tmp_path / "log", stdin="secret")
    child.start()
    wait_until(lambda: child.returncode == 0)
    child.restart_if_dead(lambda _: None)
    wait_until(lambda: child.returncode == 0)
    assert (tmp_path / "log").read_text().split() == ["secret", "secret"]


def test_a_child_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    child = child_running(code, tmp_path / "log")
    child.start()
    wait_until(lambda: "up" in (tmp_path / "log").read_text())
    child.terminate()
    child.wait(time.monotonic() + 0.2)
    assert child.returncode == -signal.SIGKILL


def test_the_kernel_kills_a_child_with_its_supervisor(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's parent-death signal is Linux's")
    script = (
        "import os, sys, time; from pathlib import Path; from serve.child import Child\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        f"child = Child('c', command, os.environ, Path({str(tmp_path / 'log')!r}))\n"
        "child.start(); print(child.pid, flush=True); time.sleep(60)"
    )
    supervisor = child_running(script, tmp_path / "supervisor.log")
    supervisor.start()
    wait_until(lambda: (tmp_path / "supervisor.log").read_text().strip().isdigit())
    grandchild = int((tmp_path / "supervisor.log").read_text())
    supervisor.wait(time.monotonic())
    wait_until(lambda: not Path(f"/proc/{grandchild}").exists() or _is_zombie(grandchild))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
