"""Compute how much host memory this process may still allocate.

The bounds are the machine, its control groups (a container's limit) and a setting. Imports neither
torch nor the engine.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil

from worker.cgroups import MEMBERSHIP, MOUNT, UNLIMITED, control_groups

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class FreeMemory:
    num_bytes: int  # that the process may still allocate
    source: str  # what sets the limit, to follow "are"


def free_memory(limit: int | None = None) -> FreeMemory:
    """Return the tightest bound; `limit` bounds all memory of this process.

    File pages count as free: the kernel drops them under memory pressure.
    """
    bounds = [FreeMemory(psutil.virtual_memory().available, "available on this machine")]
    if (left := memory_left()) is not None:
        bounds.append(FreeMemory(left, "left by the memory limit of the control group (container)"))
    if limit is not None:
        bounds.append(FreeMemory(max(0, limit - taken_bytes()), "left by the setting memory"))
    return min(bounds, key=lambda bound: bound.num_bytes)


def format_bytes(num_bytes: int) -> str:
    """Return a size in the largest unit below it, as "80.0 GiB".

    Not by pydantic, which a machine with only the engine's packages lacks.
    """
    power = min(max(0, num_bytes.bit_length() - 1) // 10, len(UNITS) - 1)
    return f"{num_bytes / 1024**power:.{1 if power else 0}f} {UNITS[power]}"


def taken_bytes() -> int:
    """Return this process's memory without the pages of mapped files, which the kernel can drop."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))  # only Linux counts the shared pages


@dataclass(frozen=True, slots=True)
class CgroupFiles:
    """The file names of one cgroup version."""

    limit: str
    usage: str
    cache: tuple[str, str]  # entries of memory.stat: file pages that the kernel can drop


V1 = CgroupFiles(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
V2 = CgroupFiles("memory.max", "memory.current", ("inactive_file", "active_file"))
FILES = {1: V1, 2: V2}


def memory_left(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int | None:
    """Return bytes until the tightest limit of the process's groups; None without a limit."""
    left = [
        left
        for group in control_groups("memory", mount, membership)
        if (left := _left_in(group.folder, FILES[group.version])) is not None
    ]
    return max(0, min(left)) if left else None


def _left_in(group: Path, files: CgroupFiles) -> int | None:
    """Return bytes that the group may still allocate, droppable pages included; None: no limit.

    Files that were read twice have active pages, such as the weights of a restarted worker.
    """
    try:
        limit = (group / files.limit).read_text().strip()
        if limit == UNLIMITED:
            return None
        usage = int((group / files.usage).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return int(limit) - usage + sum(int(statistics.get(name, 0)) for name in files.cache)
