"""Processes of a network in parts: a lost or frozen one is noticed, whatever waits for it."""

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

from tests.worker.engine.tensor_parallel.children import WAIT_S, children_left
from worker.engine.tensor_parallel import processes as module
from worker.engine.tensor_parallel.processes import Followers, ProcessLost, free_port
from worker.engine.tensor_parallel.worker_process import (
    BEAT,
    HELLO,
    READY,
    LeaderLink,
    Meeting,
    run_follower,
)
from worker.model.tensor_parallel import TensorParallel

pytestmark = pytest.mark.usefixtures("no_follower_is_left")


def start(serve: Callable[..., None], size: int = 2) -> Followers:
    followers = Followers(serve, Meeting(free_port(), size, "gloo"))
    followers.expect(HELLO)
    return followers


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)


def follow(parallel: TensorParallel, meeting: Meeting, leader: LeaderLink) -> None:
    """Obey: join the group, add a number to the sum of all, or freeze."""
    leader.ready()
    while (message := leader.receive()) is not None:
        if message == "join":
            meeting.join(parallel.rank)
        elif message == parallel.rank:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            distributed.all_reduce(torch.tensor(1.0))


def fail_to_load(parallel: TensorParallel, meeting: Meeting, leader: LeaderLink) -> None:
    raise MemoryError(f"no room for part {parallel.rank}")


def end_at_once(parallel: TensorParallel, meeting: Meeting, leader: LeaderLink) -> None:
    raise SystemExit(3)


def freeze(parallel: TensorParallel, meeting: Meeting, leader: LeaderLink) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def compute_for_ever(parallel: TensorParallel, meeting: Meeting, leader: LeaderLink) -> None:
    leader.ready()
    threading.Event().wait()


def test_a_part_that_cannot_be_loaded_is_told_and_nothing_is_waited_for() -> None:
    with pytest.raises(ProcessLost, match="part 1 of 2 failed: MemoryError: no room for part 1"):
        start(fail_to_load).expect(READY)
    assert not children_left()


def join_all(followers: Followers) -> None:
    followers.expect(READY)
    followers.send("join")
    followers.run(partial(followers.meeting.join, 0))


def add_up(followers: Followers, message: object = "add") -> float:
    total = torch.tensor(1.0)
    followers.send(message)
    followers.run(partial(distributed.all_reduce, total))
    return float(total)


def test_a_sum_does_not_wait_for_a_frozen_process(monkeypatch: pytest.MonkeyPatch) -> None:
    followers = start(follow, size=3)
    join_all(followers)
    assert add_up(followers) == 3
    with pytest.raises(ZeroDivisionError):
        followers.run(lambda: 1 / 0)
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 2.0)
    with pytest.raises(ProcessLost, match="failed: the process did not respond for 2 s"):
        add_up(followers, message=2)
    assert not children_left(), "no other is left in a sum"
    with pytest.raises(ProcessLost):
        followers.run(lambda: 42)


def test_neither_loading_nor_sending_waits_for_a_frozen_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    followers = start(freeze)
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 2.0)
    with pytest.raises(ProcessLost, match="did not respond"):
        followers.run(partial(followers.send, b"more than a pipe holds" * 1_000_000))
    with pytest.raises(ProcessLost, match="did not respond"):
        followers.expect(READY)


def test_a_process_that_computes_for_long_is_not_silent() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (compute_for_ever, 1, Meeting(free_port(), 2, "gloo"), theirs)
    context.Process(target=run_follower, args=arguments, daemon=True).start()
    words = []
    while words.count(BEAT) < 4:
        assert ours.poll(WAIT_S), words
        words.append(ours.recv()[0])
    assert set(words) == {HELLO, READY, BEAT}


def test_a_follower_whose_leader_ended_while_it_started_ends_quietly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stack trace would appear in the terminal after the worker's end."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    ours.close()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        run_follower(compute_for_ever, 1, Meeting(free_port(), 2, "gloo"), theirs)
    theirs.close()


def test_time_in_which_the_leader_was_suspended_is_no_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    followers = start(compute_for_ever)
    followers.expect(READY)
    clock = SimpleNamespace(monotonic=lambda: 1000 * time.monotonic())
    monkeypatch.setattr(module, "time", clock)
    with pytest.raises(TimeoutError):
        followers.lost.result(timeout=3)
    monkeypatch.undo()
    followers.stop()
    stopped = weakref.ref(followers)
    del followers
    eventually(lambda: gc.collect() >= 0 and stopped() is None)  # its pipes are closed with it


LEADER = """
import os, signal, sys, threading
from functools import partial
from tests.worker.engine.tensor_parallel.test_processes import end_at_once, follow, start
from worker.engine.tensor_parallel.processes import ProcessLost

def leave_with_a_frozen_one():
    followers = start(follow)
    [part] = followers._parts
    os.kill(part.process.pid, signal.SIGSTOP)
    print(part.process.pid, flush=True)

def wait_to_be_killed():
    [part] = start(follow)._parts
    print(part.process.pid, flush=True)
    threading.Event().wait()

def meet_one_that_ended():
    try:
        followers = start(end_at_once)
        followers.run(partial(followers.meeting.join, 0))
    except ProcessLost as error:
        print(error, flush=True)

if __name__ == "__main__":
    globals()[sys.argv[1]]()
"""


@pytest.fixture
def lead(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a leader in a process of its own, which ends by itself."""
    script, leaders = tmp_path / "leader.py", []
    script.write_text(LEADER)

    def start_leader(how: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        command = [sys.executable, str(script), how]
        leader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        leaders.append(leader)
        return leader

    yield start_leader
    for leader in leaders:
        leader.kill()
        leader.communicate()


def first_line(leader: subprocess.Popen[str]) -> str:
    assert leader.stdout is not None
    return leader.stdout.readline().strip()


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_leader_ends_although_a_follower_is_frozen(
    lead: Callable[[str], subprocess.Popen[str]],
) -> None:
    leader = lead("leave_with_a_frozen_one")
    follower = psutil.Process(int(first_line(leader)))
    assert leader.wait(WAIT_S) == 0
    eventually(lambda: has_ended(follower))


def test_followers_end_when_their_leader_is_killed(
    lead: Callable[[str], subprocess.Popen[str]],
) -> None:
    leader = lead("wait_to_be_killed")
    follower = psutil.Process(int(first_line(leader)))
    leader.kill()
    eventually(lambda: has_ended(follower))


def test_a_process_that_ends_before_all_have_met_is_not_waited_for(
    lead: Callable[[str], subprocess.Popen[str]],
) -> None:
    leader = lead("meet_one_that_ended")
    assert first_line(leader) == "part 1 of 2 failed: the process ended (exit code 3)"
    assert leader.wait(WAIT_S) == 0, "the blocked thread does not keep it"
