"""The child processes that a test left running."""

import multiprocessing
from multiprocessing.process import BaseProcess

WAIT_S = 120.0


def children_left() -> list[BaseProcess]:
    """Return child processes that do not end; a killed one takes a moment."""
    for child in multiprocessing.active_children():
        child.join(WAIT_S)
    return multiprocessing.active_children()
