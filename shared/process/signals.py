"""Select the signals that stop a process, and exit on them while it starts."""

import os
import signal
from types import FrameType

SIGNAL_EXIT = 128  # shells add the signal's number: 130 for SIGINT, 143 for SIGTERM


def stop_signals() -> list[signal.Signals]:
    """Return the signals that must stop this process.

    A process that was started with SIGHUP or SIGINT ignored (`nohup`, `&` in a script) continues
    to ignore them. SIGTERM always stops it: supervisors use it.
    """
    optional = (signal.SIGINT, signal.SIGHUP)
    handled = [each for each in optional if signal.getsignal(each) is not signal.SIG_IGN]
    return [signal.SIGTERM, *handled]


def end_at_once_on_signals() -> None:
    """Exit at once on `stop_signals`, until the process installs its own handlers.

    During startup there is no state to clean up. The default action does not suffice: the first
    process of a container receives only signals that it handles. An exception would be printed
    as a traceback of the imports.
    """
    for signum in stop_signals():
        signal.signal(signum, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    os._exit(SIGNAL_EXIT + signum)
