"""The tokenizer of a folder equals the tokenizer that transformers builds from the same files."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.errors import CheckpointError
from worker.model.tokenizer.tokenizer_files import load_tokenizer

PAD = {"content": "[PAD]", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
PLAIN = {"content": "<café>", "special": False, "normalized": False, "single_word": False}
TEXT = "a[PAD]b<café> c<|im_end|>"


def edit(folder: Path, name: str, **fields: Any) -> None:
    file = folder / name
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | fields))


FILES: dict[str, Callable[[Path], None]] = {
    "tokenizer.json alone": lambda path: None,
    "added_tokens.json": lambda path: edit(path, "added_tokens.json", **{"[PAD]": 512}),
    "added_tokens.json in no order": lambda path: edit(
        path, "added_tokens.json", **{"<|im_end|>": 513, "[PAD]": 512}
    ),
    "special_tokens_map.json": lambda path: edit(
        path, "special_tokens_map.json", pad_token="[PAD]"
    ),
    "a named token": lambda path: edit(path, "tokenizer_config.json", pad_token="[PAD]"),
    "a named token with flags": lambda path: edit(
        path, "tokenizer_config.json", pad_token={"__type": "AddedToken", **PAD}
    ),
    "special tokens without a role": lambda path: edit(
        path, "tokenizer_config.json", additional_special_tokens=["<|im_end|>", "[PAD]"]
    ),
    "the same of transformers 5": lambda path: edit(
        path, "tokenizer_config.json", extra_special_tokens=["<|im_end|>", "[PAD]"]
    ),
    "added_tokens_decoder": lambda path: edit(
        path, "tokenizer_config.json", added_tokens_decoder={"513": PLAIN, "512": PAD}
    ),
    "all of them": lambda path: [
        edit(path, "added_tokens.json", **{"[PAD]": 512}),
        edit(path, "tokenizer_config.json", pad_token="[PAD]", added_tokens_decoder={"512": PAD}),
        edit(path, "special_tokens_map.json", pad_token=PAD),
    ][0],
}


@pytest.mark.parametrize("files", FILES)
def test_tokens_added_by_other_files_equal_transformers(files: str, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    FILES[files](tmp_path)
    oracle: Any = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(TEXT).ids == oracle.encode(TEXT)
    assert tokenizer.get_vocab() == oracle.get_vocab()
    special = {token.content for token in oracle.added_tokens_decoder.values() if token.special}
    ours = tokenizer.get_added_tokens_decoder().values()
    assert {token.content for token in ours if token.special} == special


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_ignored(encoding: str, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    expected = load_tokenizer(tmp_path).to_str()
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    assert load_tokenizer(tmp_path).to_str() == expected


def test_a_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json in .*save_pretrained"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid 1")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is a Git LFS pointer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("token_id", [None, math.inf])
def test_an_added_token_without_an_id_is_refused(token_id: Any, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    edit(tmp_path, "added_tokens.json", **{"[PAD]": token_id})
    with pytest.raises(CheckpointError, match=f"added tokens: {token_id} must be a token id"):
        load_tokenizer(tmp_path)


def test_a_flag_of_an_added_token_must_be_true_or_false(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    token = {"content": "[PAD]", "lstrip": "yes"}
    edit(tmp_path, "tokenizer_config.json", added_tokens_decoder={"512": token})
    with pytest.raises(CheckpointError, match=r"added tokens: the flags of .* true or false"):
        load_tokenizer(tmp_path)
