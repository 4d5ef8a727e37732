import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from worker.model.checkpoint import (
    load_special_tokens,
    load_tokenizer,
    resolve_checkpoint,
)
from worker.model.errors import CheckpointError
from worker.model.random_checkpoint import write_random_checkpoint


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def test_a_folder_is_its_own_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_checkpoint(str(tmp_path / "model")) == tmp_path / "model"
    assert resolve_checkpoint("~/model") == tmp_path / "model"


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./model", "model", "../a", "a b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused_at_once(
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


def test_a_hub_id_is_downloaded_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_checkpoint("tiiuae/falcon-7b") == tmp_path
    [(repo_id, patterns)] = asked
    assert repo_id == "tiiuae/falcon-7b"
    assert {"config.json", "*.safetensors", "tokenizer.json"} <= set(patterns)
    assert not any(".bin" in pattern or pattern == "*" for pattern in patterns)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (LocalEntryNotFoundError("offline mode\nlong advice"), "from the hub: offline mode$"),
        (ConnectionError("no route"), "from the hub: no route$"),
        (TimeoutError(), r"from the hub: TimeoutError\(\)$"),
    ],
)
def test_a_hub_out_of_reach_is_one_clear_line(
    failure: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint("tiiuae/falcon-7b")


def test_a_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json in .*save_pretrained"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_generation_config_wins_over_config(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 3})
    write(tmp_path, "generation_config.json", {"eos_token_id": [4, 5], "bos_token_id": None})
    tokens = load_special_tokens(tmp_path)
    assert (tokens.eos_token_ids, tokens.bos_token_id, tokens.pad_token_id) == ((4, 5), 2, 3)


def test_an_id_of_zero_counts(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 0, "pad_token_id": 7})
    write(tmp_path, "generation_config.json", {"pad_token_id": 0})
    tokens = load_special_tokens(tmp_path)
    assert (tokens.eos_token_ids, tokens.pad_token_id) == ((0,), 0)


@pytest.mark.parametrize("eos", ["<|endoftext|>", {"content": "<|endoftext|>", "special": True}])
def test_tokens_named_by_the_tokenizer_are_the_last_resort(tmp_path: Path, eos: object) -> None:
    write_random_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    write(tmp_path, "config.json", {})
    write(tmp_path, "tokenizer_config.json", {"eos_token": eos, "pad_token": ">>PREFIX<<"})
    tokens = load_special_tokens(tmp_path)
    assert (tokens.eos_token_ids, tokens.bos_token_id, tokens.pad_token_id) == ((11,), None, 8)


def test_a_checkpoint_may_name_no_special_token(tmp_path: Path) -> None:
    tokens = load_special_tokens(tmp_path)
    assert (tokens.eos_token_ids, tokens.bos_token_id, tokens.pad_token_id) == ((), None, None)


@pytest.mark.parametrize("value", ["11", -1, True, [11, None], 1.5])
def test_an_id_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    write(tmp_path, "generation_config.json", {"eos_token_id": value})
    with pytest.raises(CheckpointError, match="eos_token_id must be a token id or a list"):
        load_special_tokens(tmp_path)
