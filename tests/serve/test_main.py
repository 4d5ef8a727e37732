"""What `falconer serve` starts."""

from pathlib import Path

import pytest

from serve.main import assemble
from serve.screen import Screen
from serve.settings import ServeSettings
from serve.supervisor import Supervisor
from shared.errors import SettingsError


def assembled(folder: Path, model: str = "tiny") -> Supervisor:
    return assemble(ServeSettings(model=model, workers=2), folder, Screen(is_quiet=True))


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


def test_several_models_get_workers_of_their_own_and_the_same_list(tmp_path: Path) -> None:
    supervisor = assembled(tmp_path, "tiny, org/falcon")
    workers = [*supervisor.workers.values()]
    models = [worker.command[worker.command.index("--model") + 1] for worker in workers]
    assert models == ["tiny", "org/falcon", "tiny", "org/falcon"]
    for child in (supervisor.api, *workers):
        assert child.env["FALCONER_MODELS"] == "tiny,org/falcon"


def test_one_model_needs_no_list(tmp_path: Path) -> None:
    assert "FALCONER_MODELS" not in assembled(tmp_path).api.env


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--model = 'tiny,tiny': must name models of different"):
        assembled(tmp_path, "tiny,tiny")
