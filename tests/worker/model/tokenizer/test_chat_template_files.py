"""A checkpoint's chat template and the tokens it may name equal what transformers finds."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.errors import CheckpointError
from worker.model.tokenizer.chat_template_files import find_chat_template, load_template_tokens

CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
MAIN, OTHERS = "chat_template.jinja", "additional_chat_templates"
EOS = {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "special": True}
NAMED = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]

LAYOUTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "text in the config": {CONFIG: {"chat_template": "c é"}},
    "list in the config": {CONFIG: {"chat_template": NAMED}},
    "list without a default": {CONFIG: {"chat_template": NAMED[:1]}},
    "mapping in the config": {CONFIG: {"chat_template": {"default": "d", "rag": "r"}}},
    "file": {MAIN: "from file: é\r\nnext\n"},
    "file and config": {MAIN: "f", CONFIG: {"chat_template": "c"}},
    "file and others": {MAIN: "f", f"{OTHERS}/rag.jinja": "r"},
    "others alone": {f"{OTHERS}/rag.jinja": "r", CONFIG: {"chat_template": "c"}},
    "default among others": {f"{OTHERS}/default.jinja": "d", f"{OTHERS}/tool_use.jinja": "t"},
    "tokens as text": {CONFIG: {"bos_token": "<s>", "eos_token": "</s>", "unk_token": None}},
    "tokens as objects": {CONFIG: {"eos_token": EOS | {"__type": "AddedToken"}}},
    "tokens of other names": {CONFIG: {"eos_token": "</s>", "eot_token": "<|eot|>"}},
    "extra tokens with names": {CONFIG: {"extra_special_tokens": {"image_token": "<image>"}}},
    "additional tokens": {CONFIG: {"pad_token": "p", "additional_special_tokens": ["<a>", "<b>"]}},
    "flags that end like tokens": {CONFIG: {"add_bos_token": True, "eos_token": "</s>"}},
    "older map": {CONFIG: {"eos_token": "</s>"}, SPECIAL: {"eos_token": EOS, "sep_token": "<sep>"}},
    "older map that does not count": {
        CONFIG: {"eos_token": "</s>", "added_tokens_decoder": {}},
        SPECIAL: {"eos_token": "<other>"},
    },
}


def write(folder: Path, layout: dict[str, Any]) -> None:
    tokenizer = (bundled_checkpoint() / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    for name, content in layout.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_bytes(text.encode())


@pytest.mark.parametrize("name", LAYOUTS)
def test_template_and_tokens_equal_transformers(tmp_path: Path, name: str) -> None:
    write(tmp_path, LAYOUTS[name])
    load: Any = PreTrainedTokenizerFast
    tokenizer = load.from_pretrained(tmp_path)
    try:
        expected = tokenizer.get_chat_template()
    except ValueError:
        expected = None
    found = find_chat_template(tmp_path)
    assert (found and found.source) == expected
    assert load_template_tokens(tmp_path) == tokenizer.special_tokens_map


def test_a_template_of_an_older_processor_comes_last(tmp_path: Path) -> None:
    write(tmp_path, {"chat_template.json": {"chat_template": "p"}})
    found = find_chat_template(tmp_path)
    assert found is not None
    assert (found.source, found.place) == ("p", "chat_template.json: chat_template")
    write(tmp_path, {CONFIG: {"chat_template": "c"}})
    found = find_chat_template(tmp_path)
    assert found is not None and found.source == "c"


def test_a_template_in_no_known_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / MAIN).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        find_chat_template(tmp_path)
    (tmp_path / MAIN).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja is a Git LFS pointer"):
        find_chat_template(tmp_path)


@pytest.mark.parametrize("template", [7, [{"name": "default", "template": 3}]])
def test_a_template_that_is_no_text_is_refused(tmp_path: Path, template: object) -> None:
    write(tmp_path, {CONFIG: {"chat_template": template}})
    with pytest.raises(CheckpointError, match="chat_template must be"):
        find_chat_template(tmp_path)
