"""The signals that stop a process if its parent ignores some of them."""

import signal
import subprocess
import sys

import pytest

ASK = (
    "import signal; from shared.process.signals import end_at_once_on_signals, stop_signals\n"
    "names = [signum.name for signum in stop_signals()]\n"
    "end_at_once_on_signals(); print(*names, flush=True); signal.pause()"
)
PATIENCE_S = 60.0


@pytest.mark.parametrize(
    ("ignored", "stopping"),
    [
        ([], {"SIGTERM", "SIGINT", "SIGHUP"}),
        (["SIGHUP"], {"SIGTERM", "SIGINT"}),
        (["SIGHUP", "SIGINT"], {"SIGTERM"}),
        (["SIGTERM"], {"SIGTERM", "SIGINT", "SIGHUP"}),
    ],
)
def test_ignored_signals_stay_ignored_except_sigterm(
    ignored: list[str], stopping: set[str]
) -> None:
    ignore = "; ".join(f"signal.signal(signal.{name}, signal.SIG_IGN)" for name in ignored)
    start = f"import os, signal, sys; {ignore or 'pass'}; os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", start, sys.executable, "-c", ASK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert set(process.stdout.readline().split()) == stopping
        for name in {"SIGHUP", "SIGINT"} - stopping:
            process.send_signal(signal.Signals[name])
        last = signal.Signals[min(stopping)]  # SIGHUP, SIGINT or SIGTERM
        process.send_signal(last)
        assert process.wait(PATIENCE_S) == 128 + last
