import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.errors import CheckpointError


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def test_a_folder_is_its_own_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_checkpoint(str(tmp_path / "model")) == tmp_path / "model"
    assert resolve_checkpoint("~/model") == tmp_path / "model"


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./model", "model", "../a", "a b/c"])
def test_a_source_that_is_neither_folder_nor_hub_id_is_refused_at_once(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_checkpoint(source)


def test_no_source_is_not_the_current_folder() -> None:
    with pytest.raises(CheckpointError, match="no model given"):
        resolve_checkpoint("")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_checkpoint(str(file))


def test_a_hub_id_is_downloaded_in_one_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        assert repo_id == "tiiuae/falcon-7b"
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (tmp_path / "model.safetensors").touch()
    assert resolve_checkpoint("tiiuae/falcon-7b") == tmp_path
    [patterns] = asked
    assert {"config.json", "*.safetensors", "tokenizer.json", "added_tokens.json"} <= set(patterns)
    assert not any(".bin" in pattern or pattern == "*" for pattern in patterns)
    (tmp_path / "model.safetensors").unlink()
    assert resolve_checkpoint("tiiuae/falcon-7b") == tmp_path
    assert "pytorch_model*.bin" in asked[-1]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (LocalEntryNotFoundError("offline mode\nlong advice"), "from the hub: offline mode$"),
        (ConnectionError("no route"), "from the hub: no route$"),
        (TimeoutError(), r"from the hub: TimeoutError\(\)$"),
    ],
)
def test_an_unreachable_hub_gives_a_one_line_error(
    failure: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint("tiiuae/falcon-7b")
