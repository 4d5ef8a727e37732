"""Find the control groups of this process (Linux, versions 2 and 1): a container's limits.

Sources: the kernel's admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and scheduler/sched-bwc.rst.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNLIMITED = "max"


class ControlGroup(NamedTuple):
    folder: Path
    version: int  # 1 or 2, which name their files differently


def control_groups(
    controller: str, mount: Path = MOUNT, membership: Path = MEMBERSHIP
) -> Iterator[ControlGroup]:
    """Yield the process's groups of a controller and their parents: each may set a limit.

    In a container, the path may be the host's; only the mount point is visible then.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        root = mount / controller if controllers else mount
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield ControlGroup(folder, version)


def cpu_quota(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> float | None:
    """Return the CPUs that the tightest quota allows; None without a quota.

    More busy threads than that stop for the rest of each period.
    """
    quotas = [_cpu_quota(group) for group in control_groups("cpu", mount, membership)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _cpu_quota(group: ControlGroup) -> float | None:
    try:
        if group.version == 2:
            quota, period = (group.folder / "cpu.max").read_text().split()
        else:
            quota = (group.folder / "cpu.cfs_quota_us").read_text().strip()
            period = (group.folder / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    if quota == UNLIMITED or int(quota) < 0:
        return None
    return int(quota) / int(period)
