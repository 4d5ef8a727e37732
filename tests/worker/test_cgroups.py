"""The CPU quota of a container, from files of both cgroup versions."""

from pathlib import Path

import pytest

from worker.cgroups import cpu_quota


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    path = tmp_path / "membership"
    path.write_text("0::/pods/mine\n")
    return path


def test_the_tightest_quota_of_all_parents_counts(mount: Path, membership: Path) -> None:
    write(mount / "pods/mine/cpu.max", "400000 100000\n")
    write(mount / "pods/cpu.max", "250000 100000\n")
    assert cpu_quota(mount, membership) == 2.5


def test_without_a_quota_all_cpus_count(mount: Path, membership: Path) -> None:
    write(mount / "pods/mine/cpu.max", "max 100000\n")
    assert cpu_quota(mount, membership) is None
    assert cpu_quota(mount, membership / "absent") is None


def test_version_1_names_quota_and_period_in_two_files(mount: Path, membership: Path) -> None:
    membership.write_text("4:cpu,cpuacct:/mine\n3:memory:/mine\n")
    write(mount / "cpu/mine/cpu.cfs_quota_us", "150000\n")
    write(mount / "cpu/mine/cpu.cfs_period_us", "100000\n")
    assert cpu_quota(mount, membership) == 1.5
    write(mount / "cpu/mine/cpu.cfs_quota_us", "-1\n")
    assert cpu_quota(mount, membership) is None
