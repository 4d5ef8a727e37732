"""A process of rank 1 or above: it holds a part of a network and computes what the driver sends.

A thread of its own sends heartbeats to the driver, however long a step takes.
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

# Ends the calls that wait in gloo or NCCL for a lost process. The driver does not wait for it.
SUM_TIMEOUT = timedelta(minutes=5)
HEARTBEAT_S = 1.0
STARTED, READY, FAILED, HEARTBEAT = "started", "ready", "failed", "heartbeat"


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The group of processes of one network, all on this machine."""

    port: int
    size: int  # number of ranks
    backend: str  # "gloo" or "nccl": how tensors are summed
    sum_timeout: timedelta = SUM_TIMEOUT

    def join(self, rank: int) -> None:
        """Wait for all ranks, then make them torch's default group."""
        distributed.init_process_group(
            self.backend,
            init_method=f"tcp://127.0.0.1:{self.port}",
            rank=rank,
            world_size=self.size,
            timeout=self.sum_timeout,
        )


class DriverLink:
    """A rank's end of the pipe to the driver."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.is_ready = False
        self._pipe = pipe
        self._lock = Lock()

    def send(self, message: str, content: object = None) -> None:
        with self._lock:
            self._pipe.send((message, content))

    def send_ready(self, content: object = None) -> None:
        """Report that this rank's part is loaded; `content` depends on the loader."""
        self.is_ready = True
        self.send(READY, content)

    def receive(self) -> Any:
        """Wait for a message from the driver. Exits if the driver has ended."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            sys.exit(1)

    def send_heartbeats(self) -> None:
        """Send heartbeats until the process ends. Exits if the driver has ended."""
        try:
            while True:
                self.send(HEARTBEAT)
                time.sleep(HEARTBEAT_S)
        except OSError:
            os._exit(1)  # the other thread may be blocked in a sum


# The work of a rank: load its part, call `send_ready`, compute until the end.
Serve = Callable[[TensorParallel, Rendezvous, DriverLink], None]


def run_rank(serve: Serve, rank: int, rendezvous: Rendezvous, pipe: "Connection[Any, Any]") -> None:
    """Run `serve` as process `rank`. The driver reports errors raised before `send_ready`."""
    for signum in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # no handler would run while it waits in a sum
    driver = DriverLink(pipe)
    try:
        driver.send(STARTED)
    except OSError:  # the driver ended meanwhile
        sys.exit(1)
    Thread(target=driver.send_heartbeats, name="heartbeat", daemon=True).start()
    try:
        serve(TensorParallel(rank, rendezvous.size), rendezvous, driver)
    except Exception as error:  # the driver reports it
        with suppress(OSError):
            driver.send(FAILED, f"{type(error).__name__}: {error}")
        if driver.is_ready:
            raise  # the log says where
