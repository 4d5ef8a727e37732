"""Keeps glibc from handing every large buffer back to the system after each step.

By default a block above 32 MiB or at the top of the heap goes back when it is freed; the next
step then pays a page fault for every 4 KiB of it.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30
_MOST_OF_OLD_GLIBC = 2**25  # what versions before 2.35 take for the threshold at most


def keep_freed_memory() -> None:
    """Let malloc keep up to a gigabyte of freed memory; does nothing where libc is not glibc."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES):
            libc.mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLD_GLIBC)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
