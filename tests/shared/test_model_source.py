"""The name of a model, and the digest by which two folders have the same model."""

from pathlib import Path

import pytest

from shared.model_source import model_name, source_digest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: falcon-x, with a folder in it and a link next to it."""
    folder = tmp_path / "falcon-x"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (".", "falcon-x"),
        ("./", "falcon-x"),
        ("inner/..", "falcon-x"),
        ("inner/../.", "falcon-x"),
        ("./inner", "inner"),
        ("inner/", "inner"),
        ("../falcon-x", "falcon-x"),
        ("../falcon-x//", "falcon-x"),
        ("~/falcon-x", "falcon-x"),
        ("../link", "link"),
        ("../link/", "link"),
        ("../link/.", "link"),
        ("../link/inner/..", "falcon-x"),
        ("tiiuae/falcon-7b", "tiiuae/falcon-7b"),
        ("tiny", "tiny"),
        ("/", "/"),
    ],
)
def test_a_model_is_named_after_its_folder(folder: Path, model: str, name: str) -> None:
    assert model_name(model) == name


def test_the_parent_folder_is_resolved_to_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "inner")
    assert model_name("..") == "falcon-x"
    assert model_name(str(folder) + "/") == "falcon-x"


def test_the_digest_changes_with_the_files_that_limit_requests(folder: Path) -> None:
    digests = [source_digest(".")]
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
        digests.append(source_digest("."))
        (folder / name).write_text('{"a": 1}')
        digests.append(source_digest("."))
    (folder / "model.safetensors").write_text("weights")
    assert len(set(digests)) == 7
    assert source_digest(str(folder)) == source_digest(".") == digests[-1]
    assert source_digest("../link") != digests[-1]  # another name


def test_the_digest_of_a_hub_model_is_of_its_name() -> None:
    assert source_digest("tiiuae/falcon-7b") == source_digest("tiiuae/falcon-7b")
    assert source_digest("tiiuae/falcon-7b") != source_digest("tiiuae/falcon-40b")
