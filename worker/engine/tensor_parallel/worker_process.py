"""One follower: a process that holds a part of a network and computes what its leader sends.

A thread of its own tells the leader that the process lives, however long a step takes.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any

from torch import distributed

from worker.model.tensor_parallel import TensorParallel

# Ends what a lost process leaves behind in gloo or NCCL. The leader does not wait for it.
SUM_TIMEOUT = timedelta(minutes=5)
BEAT_S = 1.0
HELLO, READY, FAILED, BEAT = "hello", "ready", "failed", "beat"


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the processes of one network meet, on this machine, and over what they add up."""

    port: int
    size: int
    backend: str  # "gloo" or "nccl"
    sum_timeout: timedelta = SUM_TIMEOUT

    def join(self, rank: int) -> None:
        """Wait for all processes; sums go through torch's default group from then on."""
        distributed.init_process_group(
            self.backend,
            init_method=f"tcp://127.0.0.1:{self.port}",
            rank=rank,
            world_size=self.size,
            timeout=self.sum_timeout,
        )


class LeaderLink:
    """A follower's end of the pipe to its leader."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.is_ready = False
        self._pipe = pipe
        self._lock = Lock()

    def say(self, word: str, content: object = None) -> None:
        with self._lock:
            self._pipe.send((word, content))

    def ready(self, content: object = None) -> None:
        """Tell that this part is loaded; `content` is what the leader wants to know of it."""
        self.is_ready = True
        self.say(READY, content)

    def receive(self) -> Any:
        """Wait for what the leader sends; ends the process once the leader has ended."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            sys.exit(1)

    def beat(self) -> None:
        """Tell for ever that this process lives; ends it once the leader has ended."""
        try:
            while True:
                self.say(BEAT)
                time.sleep(BEAT_S)
        except OSError:
            os._exit(1)  # the other thread may be blocked in a sum


# What a follower does: load its part, call `ready`, compute until the end.
Serve = Callable[[TensorParallel, Meeting, LeaderLink], None]


def run_follower(serve: Serve, rank: int, meeting: Meeting, pipe: "Connection[Any, Any]") -> None:
    """Run `serve` as process `rank`. The leader reports an error that comes before `ready`."""
    for signum in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # no handler would run while it waits in a sum
    leader = LeaderLink(pipe)
    try:
        leader.say(HELLO)
    except OSError:  # the leader ended meanwhile
        sys.exit(1)
    Thread(target=leader.beat, name="heartbeat", daemon=True).start()
    try:
        serve(TensorParallel(rank, meeting.size), meeting, leader)
    except Exception as error:  # the process's border
        with suppress(OSError):
            leader.say(FAILED, f"{type(error).__name__}: {error}")
        if leader.is_ready:
            raise  # the log says where
