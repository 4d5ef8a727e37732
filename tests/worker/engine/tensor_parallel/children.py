"""What is left of the processes that a test started."""

import multiprocessing
from multiprocessing.process import BaseProcess

WAIT_S = 120.0


def children_left() -> list[BaseProcess]:
    """Child processes that do not end; one that was killed takes a moment."""
    for child in multiprocessing.active_children():
        child.join(WAIT_S)
    return multiprocessing.active_children()
