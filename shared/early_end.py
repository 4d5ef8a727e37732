"""Signals that come while a process starts: it ends at once, there is nothing in its hands yet."""

import os
import signal
from types import FrameType

SIGNAL_EXIT = 128  # shells add the signal's number: 130 for SIGINT, 143 for SIGTERM


def end_at_once_on_signals() -> None:
    """Until the process has handlers of its own; one that ignores Ctrl-C goes on doing so.

    Not by the default action: the first process of a container never gets a signal that it does
    not handle. Not by an exception either: imports would show it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(SIGNAL_EXIT + signum)
