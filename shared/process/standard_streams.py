"""Keep output from failing on a closed stream or on a character that its encoding lacks."""

import io
import os
import sys
from typing import TextIO


def secure_standard_streams() -> None:
    """Open closed standard streams on the null device, and escape characters on stdout.

    The next file or socket would otherwise get the closed descriptor, and the output with it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free descriptor, which is this one
    sys.stdin = sys.stdin or open(0)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stderr does so by default


def redirect_to_devnull(stream: TextIO) -> None:
    """Redirect a stream to the null device after its reader has closed it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
