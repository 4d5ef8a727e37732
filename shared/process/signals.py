"""Signals of a process: which ones stop it, and an end at once while it still starts."""

import os
import signal
from types import FrameType

SIGNAL_EXIT = 128  # shells add the signal's number: 130 for SIGINT, 143 for SIGTERM


def stop_signals() -> list[signal.Signals]:
    """Return the signals that must stop this process.

    A process that was started with SIGHUP or SIGINT ignored (`nohup`, `&` in a script) goes on
    ignoring them. SIGTERM always stops it: that is how supervisors end processes.
    """
    optional = (signal.SIGINT, signal.SIGHUP)
    heard = [each for each in optional if signal.getsignal(each) is not signal.SIG_IGN]
    return [signal.SIGTERM, *heard]


def end_at_once_on_signals() -> None:
    """End at once on `stop_signals`, until the process installs handlers of its own.

    Not by the default action: the first process of a container never gets a signal that it does
    not handle. Not by an exception either: imports would show it.
    """
    for signum in stop_signals():
        signal.signal(signum, _end)


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(SIGNAL_EXIT + signum)
