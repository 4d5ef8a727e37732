"""Tells glibc's malloc when to hand freed memory back to the system: while loading, not in steps.

By default glibc hands back blocks above a threshold that grows with use, up to 32 MiB. Loading then
keeps the memory of temporary copies, up to the size of the model; a step pays a page fault for
every 4 KiB of a large buffer that it gets anew.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE_BYTES = 2**20
_KEPT_BYTES = 2**30
_MOST_OF_OLD_GLIBC = 2**25  # what versions before 2.35 take for the threshold at most


def return_freed_memory() -> None:
    """Have malloc return every freed block above 1 MiB; does nothing where libc is not glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_freed_memory() -> None:
    """Let malloc keep up to a gigabyte of freed memory; does nothing where libc is not glibc."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES):
            libc.mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLD_GLIBC)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
