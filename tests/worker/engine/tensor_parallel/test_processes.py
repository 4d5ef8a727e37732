"""The processes of a tensor-parallel network: a lost or frozen process is detected at once."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import distributed

from shared.process.sockets import free_port
from tests.worker.engine.tensor_parallel.children import WAIT_S, children_left
from worker.engine.tensor_parallel import processes as module
from worker.engine.tensor_parallel.processes import ProcessLost, RankProcesses
from worker.engine.tensor_parallel.rank_process import (
    HEARTBEAT,
    READY,
    STARTED,
    DriverLink,
    Rendezvous,
    run_rank,
)
from worker.model.tensor_parallel import TensorParallel

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def start(serve: Callable[..., None], size: int = 2) -> RankProcesses:
    processes = RankProcesses(serve, Rendezvous(free_port(), size, "gloo"))
    processes.wait_for(STARTED)
    return processes


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


def serve(parallel: TensorParallel, rendezvous: Rendezvous, driver: DriverLink) -> None:
    """Join the group, add a number to the sum of all ranks, or freeze, as the driver says."""
    driver.send_ready()
    while (message := driver.receive()) is not None:
        if message == "join":
            rendezvous.join(parallel.rank)
        elif message == parallel.rank:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            distributed.all_reduce(torch.tensor(1.0))


def fail_to_load(parallel: TensorParallel, rendezvous: Rendezvous, driver: DriverLink) -> None:
    raise MemoryError(f"no room for part {parallel.rank}")


def end_at_once(parallel: TensorParallel, rendezvous: Rendezvous, driver: DriverLink) -> None:
    raise SystemExit(3)


def freeze(parallel: TensorParallel, rendezvous: Rendezvous, driver: DriverLink) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def compute_without_end(
    parallel: TensorParallel, rendezvous: Rendezvous, driver: DriverLink
) -> None:
    driver.send_ready()
    threading.Event().wait()


def test_a_rank_that_cannot_load_its_part_fails_the_load_at_once() -> None:
    with pytest.raises(ProcessLost, match="rank 1 of 2 failed: MemoryError: no room for part 1"):
        start(fail_to_load).wait_for(READY)
    assert not children_left()


def join_all(processes: RankProcesses) -> None:
    processes.wait_for(READY)
    processes.send("join")
    processes.run(partial(processes.rendezvous.join, 0))


def add_up(processes: RankProcesses, message: object = "add") -> float:
    total = torch.tensor(1.0)
    processes.send(message)
    processes.run(partial(distributed.all_reduce, total))
    return float(total)


def test_a_sum_does_not_wait_for_a_frozen_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = start(serve, size=3)
    join_all(processes)
    assert add_up(processes) == 3
    with pytest.raises(ZeroDivisionError):
        processes.run(lambda: 1 / 0)
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 2.0)
    with pytest.raises(ProcessLost, match="failed: the process did not respond for 2 s"):
        add_up(processes, message=2)
    assert not children_left(), "no rank is left in a sum"
    with pytest.raises(ProcessLost):
        processes.run(lambda: 42)


def test_neither_loading_nor_sending_waits_for_a_frozen_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = start(freeze)
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 2.0)
    with pytest.raises(ProcessLost, match="did not respond"):
        processes.run(partial(processes.send, b"more than a pipe holds" * 1_000_000))
    with pytest.raises(ProcessLost, match="did not respond"):
        processes.wait_for(READY)


def test_a_process_sends_heartbeats_during_a_long_step() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (compute_without_end, 1, Rendezvous(free_port(), 2, "gloo"), theirs)
    context.Process(target=run_rank, args=arguments, daemon=True).start()
    messages: list[str] = []
    while messages.count(HEARTBEAT) < 3:
        assert ours.poll(WAIT_S), messages
        messages.append(ours.recv()[0])
    assert set(messages) == {STARTED, READY, HEARTBEAT}


def test_a_rank_exits_quietly_if_the_driver_ended_while_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stack trace would appear in the terminal after the exit of the worker."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    ours.close()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        run_rank(compute_without_end, 1, Rendezvous(free_port(), 2, "gloo"), theirs)
    theirs.close()


def test_time_in_which_the_driver_was_suspended_is_not_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = start(compute_without_end)
    processes.wait_for(READY)
    clock = SimpleNamespace(monotonic=lambda: 1000 * time.monotonic())
    monkeypatch.setattr(module, "time", clock)
    with pytest.raises(TimeoutError):
        processes.lost.result(timeout=2)
    monkeypatch.undo()
    processes.stop()
    stopped = weakref.ref(processes)
    del processes
    eventually(lambda: gc.collect() >= 0 and stopped() is None)  # and its pipes are closed


DRIVER = """
import multiprocessing, os, signal, sys, threading
from functools import partial
from tests.worker.engine.tensor_parallel.test_processes import end_at_once, serve, start
from worker.engine.tensor_parallel.processes import ProcessLost

def exit_with_a_frozen_rank():
    processes = start(serve)
    [rank] = multiprocessing.active_children()
    os.kill(rank.pid, signal.SIGSTOP)
    print(rank.pid, flush=True)

def wait_to_be_killed():
    processes = start(serve)
    [rank] = multiprocessing.active_children()
    print(rank.pid, flush=True)
    threading.Event().wait()

def join_an_ended_rank():
    try:
        processes = start(end_at_once)
        processes.run(partial(processes.rendezvous.join, 0))
    except ProcessLost as error:
        print(error, flush=True)

if __name__ == "__main__":
    globals()[sys.argv[1]]()
"""


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a driver in a process of its own, which exits by itself."""
    script, drivers = tmp_path / "driver.py", []
    script.write_text(DRIVER)

    def start_one(command_name: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        command = [sys.executable, str(script), command_name]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        drivers.append(driver)
        return driver

    yield start_one
    for driver in drivers:
        driver.kill()
        driver.communicate()


def first_line(driver: subprocess.Popen[str]) -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_driver_exits_although_a_rank_is_frozen(
    start_driver: Callable[[str], subprocess.Popen[str]],
) -> None:
    driver = start_driver("exit_with_a_frozen_rank")
    rank_process = psutil.Process(int(first_line(driver)))
    assert driver.wait(WAIT_S) == 0
    eventually(lambda: has_ended(rank_process))


def test_ranks_exit_when_the_driver_is_killed(
    start_driver: Callable[[str], subprocess.Popen[str]],
) -> None:
    driver = start_driver("wait_to_be_killed")
    rank_process = psutil.Process(int(first_line(driver)))
    driver.kill()
    eventually(lambda: has_ended(rank_process))


def test_a_process_that_ends_before_the_rendezvous_fails_the_load(
    start_driver: Callable[[str], subprocess.Popen[str]],
) -> None:
    driver = start_driver("join_an_ended_rank")
    assert first_line(driver) == "rank 1 of 2 failed: the process ended (exit code 3)"
    assert driver.wait(WAIT_S) == 0, "a blocked thread must not keep the process"
