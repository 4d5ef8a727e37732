"""Start the processes of ranks 1 and above, and detect when one is lost.

A process is lost when it ends, fails, or stops sending heartbeats. Calls that may wait for other
ranks run in a thread of their own, so that a blocked call does not hide the loss from its caller.
"""

import atexit
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_futures
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from worker.engine.tensor_parallel.rank_process import (
    FAILED,
    HEARTBEAT,
    HEARTBEAT_S,
    READY,
    STARTED,
    Rendezvous,
    Serve,
    run_rank,
)

# How long a process may be silent while it starts, which imports torch, and afterwards. Its
# heartbeats come every second, also during a long step.
START_LIMIT_S = 300.0
SILENCE_LIMIT_S = 30.0
NOTICE_S = 1.0
JOIN_S = 0.5  # for all together; a killed process ends at once, unless a device holds it

T = TypeVar("T")
_Call = tuple[Callable[[], Any], "Future[Any]"]


class ProcessLost(RuntimeError):
    """A process of this network ended, failed or froze; the network cannot run without it."""


@dataclass(slots=True, eq=False)
class _RankProcess:
    """One process, as the driver sees it."""

    rank: int
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    reports: dict[str, "Future[Any]"] = field(
        default_factory=lambda: {STARTED: Future(), READY: Future()}
    )
    silent_s: float = 0.0  # without a message, while the driver itself ran

    @property
    def silence_limit_s(self) -> float:
        return SILENCE_LIMIT_S if self.reports[STARTED].done() else START_LIMIT_S

    def read(self) -> str | None:
        """Read the messages of the process; return the reason if it is lost."""
        is_alive = self.process.is_alive()  # before its messages, so that the last one is read
        try:
            while self.pipe.poll():
                message, content = self.pipe.recv()
                self.silent_s = 0.0
                if message == FAILED:
                    return str(content)
                if message != HEARTBEAT:
                    self.reports[message].set_result(content)
        except (EOFError, OSError):
            is_alive = False
            self.process.join(JOIN_S)
        if not is_alive:
            return f"the process ended ({_describe_exit(self.process.exitcode)})"
        if self.silent_s > self.silence_limit_s:
            return f"the process did not respond for {self.silence_limit_s:g} s"
        return None


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "exit code not known yet"
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


class RankProcesses:
    """The processes of ranks 1 to size - 1. All end with this one, or as soon as one is lost.

    `lost` gets the reason as its result when a process is lost or all are stopped.
    """

    def __init__(self, serve: Serve, rendezvous: Rendezvous) -> None:
        self.rendezvous = rendezvous
        self.lost: Future[str] = Future()
        self._failing = Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._ranks = [
            _start(context, serve, rank, rendezvous) for rank in range(1, rendezvous.size)
        ]
        atexit.register(self.stop)  # before multiprocessing would wait for a frozen one
        for target in (self._watch, self._run_calls):
            Thread(target=target, name="rank-processes", daemon=True).start()

    def wait_for(self, message: str) -> list[Any]:
        """Wait until each rank has sent `message`; return the contents. Raises ProcessLost."""
        return [self._result(rank.reports[message]) for rank in self._ranks]

    def send(self, message: object) -> None:
        """Send a message to each rank. Blocks while a process does not read: see `run`."""
        pickled = ForkingPickler.dumps(message)
        for rank in self._ranks:
            rank.pipe.send_bytes(pickled)

    def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the thread for blocking calls. Raises ProcessLost once a process is lost.

        If the thread is blocked then, it stays so until torch's own timeout; nothing waits for it.
        """
        future: Future[T] = Future()
        if not self.lost.done():
            self._calls.put((call, future))
        return self._result(future)

    def stop(self) -> None:
        """Kill all processes. Calls that wait for them raise ProcessLost."""
        self.fail("its processes were stopped")
        atexit.unregister(self.stop)  # it would keep the pipes open
        deadline = time.monotonic() + JOIN_S
        for rank in self._ranks:
            rank.process.join(max(0.0, deadline - time.monotonic()))

    def fail(self, reason: str) -> None:
        """Kill all processes and resolve `lost`; without effect after the first call.

        A process that is left would wait in a sum, on a GPU with all its memory.
        """
        with self._failing:
            if self.lost.done():
                return
            for rank in self._ranks:
                rank.process.kill()  # a frozen process takes no other signal
            self.lost.set_result(reason)
            self._calls.put(None)

    def fail_after_notice(self, reason: str) -> None:
        """Call `fail`, with the reason of another process if it is found lost within a second."""
        try:
            self.lost.result(NOTICE_S)
        except TimeoutError:
            self.fail(reason)

    def _result(self, future: "Future[T]") -> T:
        either: tuple[Future[Any], ...] = (future, self.lost)
        wait_for_futures(either, return_when=FIRST_COMPLETED)
        if not self.lost.done():
            return future.result()
        self.stop()
        raise ProcessLost(self.lost.result())

    def _run_calls(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except BaseException as error:  # the caller's to handle
                future.set_exception(error)
            del item, call, future  # they may hold large tensors

    def _watch(self) -> None:
        while not self.lost.done():
            self._wait_for_messages()
            for rank in self._ranks:
                if problem := rank.read():
                    self.fail(f"rank {rank.rank} of {self.rendezvous.size} failed: {problem}")

    def _wait_for_messages(self) -> None:
        """Wait for a message, at most one heartbeat interval, and count the time as silence.

        A wait that took longer counts as two intervals: the whole machine was suspended.
        """
        started = time.monotonic()
        ends = [rank.process.sentinel for rank in self._ranks]
        wait([*ends, *(rank.pipe for rank in self._ranks)], HEARTBEAT_S)
        waited_s = min(time.monotonic() - started, 2 * HEARTBEAT_S)
        for rank in self._ranks:
            rank.silent_s += waited_s


def _start(context: SpawnContext, serve: Serve, rank: int, rendezvous: Rendezvous) -> _RankProcess:
    ours, theirs = context.Pipe()
    process = context.Process(
        target=run_rank, args=(serve, rank, rendezvous, theirs), name=f"rank {rank}", daemon=True
    )
    process.start()
    theirs.close()
    return _RankProcess(rank, process, ours)


def free_port() -> int:
    """Return a TCP port that is free right now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
