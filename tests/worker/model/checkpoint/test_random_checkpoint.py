from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.worker.model.packed import prefill
from worker import host_memory
from worker.model.checkpoint.random_checkpoint import (
    SPECIAL_TOKENS,
    config_fields,
    write_random_checkpoint,
)
from worker.model.checkpoint.weights import load_model
from worker.model.config import ModelConfig
from worker.model.errors import CheckpointError
from worker.model.falcon import FalconForCausalLM
from worker.model.tokenizer.special_tokens import load_special_tokens
from worker.model.tokenizer.tokenizer_files import load_tokenizer

Pair = tuple[FalconForCausalLM, Any]


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer(checkpoint("7b"))


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_a_checkpoint_is_in_the_style_asked_for(
    checkpoint: Callable[[str], Path], like: str
) -> None:
    assert ModelConfig.from_checkpoint(checkpoint(like)).style == like


@pytest.mark.parametrize(
    ("like", "billions", "kv_kib_per_token"),
    [
        ("7b", 6.92, 8),
        ("40b", 41.3, 120),
        ("11b", 11.1, 240),
        ("rw", 1.31, 192),
    ],
)
def test_full_size_is_the_published_one(like: str, billions: float, kv_kib_per_token: int) -> None:
    config = ModelConfig.from_dict(config_fields(like, full_size=True))
    assert config.style == like
    assert config.num_parameters / 1e9 == pytest.approx(billions, abs=0.05)
    assert config.kv_bytes_per_token(torch.bfloat16) == kv_kib_per_token * 1024


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        load_model(
            str(write_random_checkpoint(tmp_path / name, seed=seed)), device=torch.device("cpu")
        ).lm_head.weight
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_writing_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    write_random_checkpoint(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_predictions_are_clear_and_depend_on_the_whole_prompt(pair: Pair) -> None:
    model, _ = pair
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(512, (24, 12), generator=generator)
    prompts[:, 1:] = prompts[0, 1:]  # they differ in their first token only
    best = torch.stack([prefill(model, prompt.tolist())[-1] for prompt in prompts]).topk(2)
    margins = best.values[:, 0] - best.values[:, 1]
    assert len(set(best.indices[:, 0].tolist())) >= 3
    assert margins.median() > 0.1


def test_the_dtype_asked_for_is_written(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, dtype=torch.bfloat16)
    assert ModelConfig.from_checkpoint(tmp_path).dtype is torch.bfloat16
    model = load_model(str(tmp_path), device=torch.device("cpu"))
    assert model.lm_head.weight.dtype is torch.bfloat16


@given(st.text(max_size=50))
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_special_tokens_have_the_ids_of_the_published_tokenizer(
    tokenizer: Tokenizer, checkpoint: Callable[[str], Path]
) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(12))
    assert tokenizer.encode("<|endoftext|>").ids == [11]
    tokens = load_special_tokens(checkpoint("7b"), 512)
    assert (tokens.bos_token_id, tokens.eos_token_ids) == (11, (11,))


def test_every_id_has_a_token_and_common_pairs_are_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 512
    assert len(tokenizer.encode(" the end").ids) <= 5


def test_transformers_reads_the_tokenizer_alike(
    tokenizer: Tokenizer, checkpoint: Callable[[str], Path]
) -> None:
    theirs = AutoTokenizer.from_pretrained(checkpoint("7b"))
    text = "Grüße,  the end<|endoftext|>!"
    assert theirs(text).input_ids == tokenizer.encode(text).ids
    assert theirs.eos_token_id == 11


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        write_random_checkpoint(tmp_path)


def test_a_vocabulary_smaller_than_the_bytes_has_no_tokenizer(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, vocab_size=100)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"like": "180b"}, "like must be one of 7b, 40b, 11b, rw, got '180b'"),
        ({"vocab_size": 11}, "vocab_size must exceed 11, got 11"),
        ({"hidden_size": 65}, "hidden_size 65 is not a multiple of num_attention_heads 8"),
        ({"like": "rw", "num_kv_heads": 2}, "num_kv_heads does not apply to rw"),
        ({"like": "40b", "num_kv_heads": 3}, "not a multiple of num_kv_heads 3"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_random_checkpoint(tmp_path / "model", **arguments)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_that_memory_cannot_hold_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "memory_left", lambda: 2**20)
    with pytest.raises(ValueError, match=r"needs 192\.\d MiB of memory, but 1\.0 MiB are left"):
        write_random_checkpoint(tmp_path / "new")
    assert not (tmp_path / "new").exists()
