"""What `falconer serve` starts."""

from pathlib import Path

import pytest

from serve.main import assemble
from serve.screen import Screen
from serve.settings import ServeSettings
from serve.supervisor import Supervisor


def assembled(folder: Path) -> Supervisor:
    return assemble(ServeSettings(model="tiny", workers=2), folder, Screen(is_quiet=True))


@pytest.mark.parametrize("chosen", [None, "glibc.malloc.hugetlb=0"])
def test_workers_get_huge_pages_unless_the_user_sets_the_allocator(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if chosen:
        monkeypatch.setenv("GLIBC_TUNABLES", chosen)
    supervisor = assembled(tmp_path)
    values = [worker.env.get("GLIBC_TUNABLES") for worker in supervisor.workers.values()]
    assert values == 2 * [chosen or "glibc.malloc.hugetlb=1"]
    assert supervisor.api.env.get("GLIBC_TUNABLES") == chosen
