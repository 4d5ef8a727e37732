"""Starts the processes that hold the other parts of a network, and notices when one is lost.

A process is lost when it ends, fails, or stops sending heartbeats. Calls that may wait for the
others run in a thread of their own: whatever blocks that thread, its caller learns of the loss.
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

from worker.engine.tensor_parallel.worker_process import (
    BEAT,
    BEAT_S,
    FAILED,
    HELLO,
    READY,
    Meeting,
    Serve,
    run_follower,
)

# For how long a process may be silent: while it starts, which imports torch, and later, when a
# thread of its own sends a heartbeat every second. A long step is no silence.
START_LIMIT_S = 300.0
SILENCE_LIMIT_S = 30.0
NOTICE_S = 1.0
JOIN_S = 0.5  # for all together; a killed process ends at once, unless a device holds it

T = TypeVar("T")
_Call = tuple[Callable[[], Any], "Future[Any]"]


class ProcessLost(RuntimeError):
    """A process of this network ended, failed or froze: there is no going on without it."""


@dataclass(slots=True, eq=False)
class _Part:
    """A follower as its leader knows it; `silent_s` is time in which the leader itself ran."""

    rank: int
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    said: dict[str, "Future[Any]"] = field(
        default_factory=lambda: {HELLO: Future(), READY: Future()}
    )
    silent_s: float = 0.0

    @property
    def silence_limit_s(self) -> float:
        return SILENCE_LIMIT_S if self.said[HELLO].done() else START_LIMIT_S

    def read(self) -> str | None:
        """Take in what the process said; returns why it is lost, if it is."""
        is_alive = self.process.is_alive()  # asked first: its last words are in the pipe by then
        try:
            while self.pipe.poll():
                word, content = self.pipe.recv()
                self.silent_s = 0.0
                if word == FAILED:
                    return str(content)
                if word != BEAT:
                    self.said[word].set_result(content)
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
        return "it has yet to tell how"
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


class Followers:
    """Processes of rank 1 to size - 1; they end with this process, or all once one is lost.

    `lost` is resolved, with the reason, when one is lost or all are stopped.
    """

    def __init__(self, serve: Serve, meeting: Meeting) -> None:
        self.meeting = meeting
        self.lost: Future[str] = Future()
        self._losing = Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._parts = [_start(context, serve, rank, meeting) for rank in range(1, meeting.size)]
        atexit.register(self.stop)  # before multiprocessing would wait for a frozen one
        for target in (self._watch, self._run_calls):
            Thread(target=target, name="followers", daemon=True).start()

    def expect(self, word: str) -> list[Any]:
        """Wait until each has said `word`; returns what came with it. Raises ProcessLost."""
        return [self._result(part.said[word]) for part in self._parts]

    def send(self, message: object) -> None:
        """Send a message to each. Waits for a process that does not read: see `run`."""
        pickled = ForkingPickler.dumps(message)
        for part in self._parts:
            part.pipe.send_bytes(pickled)

    def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the thread that may be given up. Raises ProcessLost as soon as one is lost.

        A thread that is blocked then stays so until torch's own timeout; nothing waits for it.
        """
        future: Future[T] = Future()
        if not self.lost.done():
            self._calls.put((call, future))
        return self._result(future)

    def stop(self) -> None:
        """End all processes. Calls that wait for them raise ProcessLost."""
        self.lose("its processes were stopped")
        atexit.unregister(self.stop)  # it would keep the pipes open
        deadline = time.monotonic() + JOIN_S
        for part in self._parts:
            part.process.join(max(0.0, deadline - time.monotonic()))

    def lose(self, reason: str) -> None:
        """Give the network up, unless that was done already: end all processes, tell the callers.

        A part that is left would wait in a sum, on a GPU with all its memory.
        """
        with self._losing:
            if self.lost.done():
                return
            for part in self._parts:
                part.process.kill()  # a frozen process takes no other signal
            self.lost.set_result(reason)
            self._calls.put(None)

    def give_up(self, reason: str) -> None:
        """As `lose`; a process that is found to be lost within a second is the better reason."""
        try:
            self.lost.result(NOTICE_S)
        except TimeoutError:
            self.lose(reason)

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
            self._wait_for_news()
            for part in self._parts:
                if problem := part.read():
                    self.lose(f"part {part.rank} of {self.meeting.size} failed: {problem}")

    def _wait_for_news(self) -> None:
        """Wait for a heartbeat's time at most, and count it.

        By what this process could see: after a suspension of the whole machine none is silent.
        """
        started = time.monotonic()
        ends = [part.process.sentinel for part in self._parts]
        wait([*ends, *(part.pipe for part in self._parts)], BEAT_S)
        waited_s = min(time.monotonic() - started, 2 * BEAT_S)
        for part in self._parts:
            part.silent_s += waited_s


def _start(context: SpawnContext, serve: Serve, rank: int, meeting: Meeting) -> _Part:
    ours, theirs = context.Pipe()
    process = context.Process(
        target=run_follower, args=(serve, rank, meeting, theirs), name=f"part {rank}", daemon=True
    )
    process.start()
    theirs.close()
    return _Part(rank, process, ours)


def free_port() -> int:
    """One that nobody listens on right now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
