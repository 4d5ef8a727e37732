"""Standard streams that cannot fail: closed ones, and encodings that lack a character."""

import io
import os
import sys
from typing import TextIO


def secure_standard_streams() -> None:
    """Open closed standard streams on the null device, and escape what stdout cannot encode.

    A descriptor that is closed would be given to the next file or socket that is opened, and
    output meant for the terminal would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
    sys.stdin = sys.stdin or open(0)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stderr does so by itself


def silence(stream: TextIO) -> None:
    """Send further output of `stream`, whose reader is gone, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
