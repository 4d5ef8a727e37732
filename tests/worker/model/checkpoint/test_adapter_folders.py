"""The folders that are adapters, and their strengths from the environment."""

from pathlib import Path

import pytest

from worker.model.checkpoint.adapter_folders import find_adapters
from worker.model.errors import CheckpointError


def make_folders(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).mkdir()
        (directory / name / "adapter_config.json").touch()


def test_every_folder_with_a_config_is_an_adapter_of_its_name(tmp_path: Path) -> None:
    make_folders(tmp_path, "verse", "tales")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "adapter_config.json").touch()
    found = find_adapters(tmp_path, {})
    assert [(folder.name, folder.path) for folder in found] == [
        ("tales", tmp_path / "tales"),
        ("verse", tmp_path / "verse"),
    ]


def test_an_environment_variable_of_its_name_is_its_strength_and_else_it_is_one(
    tmp_path: Path,
) -> None:
    make_folders(tmp_path, "falcon-verse", "tales")
    found = find_adapters(tmp_path, {"falcon-verse": "-0.25"})
    assert {folder.name: folder.strength for folder in found} == {"falcon-verse": -0.25, "tales": 1}


@pytest.mark.parametrize("strength", ["strong", "", "nan", "inf"])
def test_a_strength_must_be_a_number(tmp_path: Path, strength: str) -> None:
    make_folders(tmp_path, "verse")
    with pytest.raises(CheckpointError, match=r"adapter .*/verse: the environment variable verse"):
        find_adapters(tmp_path, {"verse": strength})


def test_a_directory_that_is_not_there_or_holds_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no folder with an adapter_config\.json"):
        find_adapters(tmp_path, {})
    with pytest.raises(CheckpointError, match=r"adapters_dir .*/missing cannot be read"):
        find_adapters(tmp_path / "missing", {})
