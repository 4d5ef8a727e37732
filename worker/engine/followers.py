"""Starts the processes that hold the other parts of a network, and waits until all have loaded.

Knows how processes find each other, not what they compute.
"""

import multiprocessing
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch import distributed

from worker.model.tensor_parallel import TensorParallel

SUM_TIMEOUT = timedelta(minutes=5)  # one that takes longer has lost a process
# Followers wait for work for as long as nobody asks, and for the slowest to load. That a process is
# lost they see by its closed connection.
MESSAGE_TIMEOUT = timedelta(days=10_000)
HELLO, READY = "hello", "ready"


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the processes of one network meet, on this machine, and over what they add up."""

    port: int
    size: int
    backend: str  # "gloo" or "nccl"
    sum_timeout: timedelta = SUM_TIMEOUT

    def join(self, rank: int) -> distributed.ProcessGroup:
        """Wait for all processes; returns the group for messages, the default one is for sums."""
        distributed.init_process_group(
            self.backend,
            init_method=f"tcp://127.0.0.1:{self.port}",
            rank=rank,
            world_size=self.size,
            timeout=self.sum_timeout,
        )
        group: distributed.ProcessGroup = distributed.new_group(
            backend="gloo", timeout=MESSAGE_TIMEOUT
        )
        return group


# What a follower does: load its part, call the given function once it has, compute until the end.
Serve = Callable[[TensorParallel, Meeting, Callable[[], None]], None]


class Followers:
    """Processes of rank 1 to size - 1; they end with this process, or by themselves without it."""

    def __init__(self, serve: Serve, meeting: Meeting) -> None:
        self.meeting = meeting
        context = multiprocessing.get_context("spawn")
        self._pipes: dict[int, Connection[Any, Any]] = {}
        self._processes: list[BaseProcess] = []
        for rank in range(1, meeting.size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_run, args=(serve, rank, meeting, theirs), name=f"part {rank}", daemon=True
            )
            process.start()
            theirs.close()
            self._pipes[rank] = ours
            self._processes.append(process)

    def expect(self, word: str) -> None:
        """Wait until each has said `word`; raises RuntimeError if one says something else."""
        silent = dict(self._pipes)
        while silent:
            spoken = wait(list(silent.values()))
            for rank in [rank for rank, pipe in silent.items() if pipe in spoken]:
                said = _receive(silent.pop(rank))
                if said != word:
                    self.stop()
                    raise RuntimeError(f"part {rank} of {self.meeting.size} failed: {said}")

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _receive(pipe: "Connection[Any, Any]") -> str:
    try:
        said: str = pipe.recv()
    except EOFError:
        return "the process ended"
    return said


def _run(serve: Serve, rank: int, meeting: Meeting, pipe: "Connection[Any, Any]") -> None:
    """The life of one follower. An error before it is ready is the leader's to tell."""
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True
        pipe.send(READY)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the leader decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # no handler would run while it waits in a sum
    pipe.send(HELLO)
    try:
        serve(TensorParallel(rank, meeting.size), meeting, ready)
    except Exception as error:  # the process's border
        if is_ready:
            raise  # the leader only sees that it is gone: the log says why
        pipe.send(f"{type(error).__name__}: {error}")


def free_port() -> int:
    """One that nobody listens on right now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
