"""Memory limits of control groups, read from a copy of the kernel's folders."""

import mmap
from pathlib import Path

import pytest

from worker import host_memory
from worker.host_memory import FreeMemory, free_memory, memory_left, taken_bytes

V2_FILES = ("memory.max", "memory.current", "inactive_file")
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def make_group(
    folder: Path,
    limit: int | str,
    usage: int,
    cache: int = 0,
    files: tuple[str, str, str] = V2_FILES,
    active_cache: int = 0,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files[0]).write_text(f"{limit}\n")
    (folder / files[1]).write_text(f"{usage}\n")
    active = files[2].replace("inactive", "active")
    (folder / "memory.stat").write_text(f"anon 5\n{files[2]} {cache}\n{active} {active_cache}\n")


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    path = tmp_path / "self"
    path.write_text("0::/pods/mine\n")
    return path


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_file_pages_count_as_free(mount: Path, membership: Path) -> None:
    """Files that were read twice have active pages, for example after a restart of a worker."""
    make_group(mount / "pods/mine", limit=1000, usage=700, cache=150, active_cache=200)
    assert memory_left(mount, membership) == 650


def test_the_tightest_limit_of_all_parents_counts(mount: Path, membership: Path) -> None:
    make_group(mount / "pods/mine", limit=1000, usage=100)
    make_group(mount / "pods", limit=500, usage=300)
    assert memory_left(mount, membership) == 200


def test_a_container_reads_its_limit_at_the_mount_point(mount: Path, membership: Path) -> None:
    membership.write_text("0::/\n")
    make_group(mount, limit=1000, usage=400)
    assert memory_left(mount, membership) == 600


def test_cgroup_version_1_is_read_from_its_own_files(mount: Path, membership: Path) -> None:
    membership.write_text("4:cpu,cpuacct:/a\n9:memory:/docker/abc\n1:name=systemd:/b\n")
    make_group(mount / "memory", limit=1000, usage=400, cache=50, files=V1_FILES, active_cache=7)
    assert memory_left(mount, membership) == 657


def test_a_group_over_its_limit_has_nothing_left(mount: Path, membership: Path) -> None:
    make_group(mount / "pods/mine", limit=1000, usage=1200)
    assert memory_left(mount, membership) == 0


def test_without_a_limit_or_cgroups_there_is_no_bound(mount: Path, membership: Path) -> None:
    assert memory_left(mount, membership) is None
    make_group(mount / "pods/mine", limit="max", usage=100)
    assert memory_left(mount, membership) is None
    membership.unlink()
    assert memory_left(mount, membership) is None


def test_the_tightest_bound_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "memory_left", lambda: None)
    machine = free_memory()
    assert machine.source == "available on this machine"
    monkeypatch.setattr(host_memory, "memory_left", lambda: 1000)
    assert free_memory().num_bytes == 1000
    assert "control group" in free_memory().source
    monkeypatch.setattr(host_memory, "taken_bytes", lambda: 70)
    assert free_memory(limit=100) == FreeMemory(30, "left by the setting memory")
    assert free_memory(limit=50).num_bytes == 0


def test_mapped_files_do_not_count_as_taken_memory(tmp_path: Path) -> None:
    """Weights are read from mapped files, whose pages the kernel drops under pressure."""
    size = 64 * 2**20
    (tmp_path / "weights").write_bytes(bytes(size))
    before = taken_bytes()
    with (tmp_path / "weights").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(mapped[::4096]) == 0
        assert taken_bytes() < before + size // 2
        mapped.close()
    # A mapping, because an allocator could reuse memory that earlier tests freed.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"x" * size)
        assert taken_bytes() > before + size // 2
