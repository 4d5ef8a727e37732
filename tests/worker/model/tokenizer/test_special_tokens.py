"""Special token ids against the rows of the embedding table."""

import json
from pathlib import Path

import pytest
from tokenizers import processors

from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.errors import CheckpointError
from worker.model.tokenizer.special_tokens import load_special_tokens
from worker.model.tokenizer.tokenizer_files import load_tokenizer


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def test_generation_config_takes_precedence_over_config(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 3})
    write(tmp_path, "generation_config.json", {"eos_token_id": [4, 5], "bos_token_id": None})
    tokens = load_special_tokens(tmp_path, 512)
    assert (tokens.eos_token_ids, tokens.bos_token_id, tokens.pad_token_id) == ((4, 5), 2, 3)


def test_an_id_of_zero_counts(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 0, "pad_token_id": 7})
    write(tmp_path, "generation_config.json", {"pad_token_id": 0})
    tokens = load_special_tokens(tmp_path, 512)
    assert (tokens.eos_token_ids, tokens.pad_token_id) == ((0,), 0)


@pytest.mark.parametrize("eos", ["<|endoftext|>", {"content": "<|endoftext|>", "special": True}])
def test_tokens_named_by_the_tokenizer_are_the_last_resort(tmp_path: Path, eos: object) -> None:
    write_random_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    write(tmp_path, "config.json", {})
    write(tmp_path, "tokenizer_config.json", {"eos_token": eos, "pad_token": ">>PREFIX<<"})
    tokens = load_special_tokens(tmp_path, 512)
    assert (tokens.eos_token_ids, tokens.bos_token_id, tokens.pad_token_id) == ((11,), None, 8)


def test_a_checkpoint_may_name_no_special_token(tmp_path: Path) -> None:
    tokens = load_special_tokens(tmp_path, 512)
    assert (tokens.eos_token_ids, tokens.bos_token_id, tokens.pad_token_id) == ((), None, None)


@pytest.mark.parametrize("value", ["11", -1, True, [11, None], 1.5])
def test_an_id_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    write(tmp_path, "generation_config.json", {"eos_token_id": value})
    with pytest.raises(CheckpointError, match="eos_token_id must be a token id or a list"):
        load_special_tokens(tmp_path, 512)


def test_a_pad_id_beyond_the_table_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 11, "pad_token_id": 512})
    tokens = load_special_tokens(tmp_path, 512)
    assert (tokens.pad_token_id, tokens.eos_token_ids) == (None, (11,))
    assert "config.json: pad_token_id must be less than 512" in caplog.text


@pytest.mark.parametrize(
    ("generation", "config", "eos"),
    [([600, 11], None, (11,)), (600, 11, (11,)), ([600, 700], [700, 3], (3,))],
)
def test_an_eos_beyond_the_table_is_ignored_with_another(
    tmp_path: Path, generation: object, config: object, eos: tuple[int, ...]
) -> None:
    write(tmp_path, "generation_config.json", {"eos_token_id": generation})
    write(tmp_path, "config.json", {"eos_token_id": config})
    assert load_special_tokens(tmp_path, 512).eos_token_ids == eos


def test_the_only_eos_beyond_the_table_is_refused_by_file_field_and_limit(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 512})
    message = (
        r"^config\.json: eos_token_id must be less than 512, the rows of the embedding table, "
        "got 512$"
    )
    with pytest.raises(CheckpointError, match=message):
        load_special_tokens(tmp_path, 512)


def test_a_bos_beyond_the_table_is_refused_where_the_template_writes_it(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    write(tmp_path, "config.json", {"eos_token_id": 11, "bos_token_id": 512})
    (tmp_path / "generation_config.json").unlink()
    write(tmp_path, "tokenizer_config.json", {"bos_token": "[BOS]"})
    assert load_special_tokens(tmp_path, 512).bos_token_id is None
    message = r"template puts '\[BOS\]' into every prompt: its id 512 must be less than 512"
    with pytest.raises(CheckpointError, match=message):
        load_special_tokens(tmp_path, 512, "[BOS]User: a")


def test_a_tokenizer_that_puts_such_a_token_into_every_prompt_is_refused(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_special_tokens(["[BOS]"])
    bos = tokenizer.token_to_id("[BOS]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", bos)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_special_tokens(tmp_path, bos + 1).eos_token_ids == (11,)
    with pytest.raises(CheckpointError, match=r"puts '\[BOS\]' into every prompt: its id 512 must"):
        load_special_tokens(tmp_path, bos)


@pytest.mark.parametrize(("model_type", "eos"), [("RefinedWebModel", (11,)), ("falcon", (2,))])
def test_the_first_releases_default_eos_gives_way_to_the_tokenizers(
    tmp_path: Path, model_type: str, eos: tuple[int, ...]
) -> None:
    write_random_checkpoint(tmp_path)
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    write(tmp_path, "config.json", {"model_type": model_type, **ids})
    write(tmp_path, "generation_config.json", ids)
    assert load_special_tokens(tmp_path, 512).eos_token_ids == eos
