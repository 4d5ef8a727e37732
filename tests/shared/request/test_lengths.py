"""The upper bound of the bytes in a token, which only some tokenizers have."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from shared.request.lengths import max_bytes_per_token
from tests.echo_worker import letter_tokenizer
from worker.model.checkpoint.tiny import bundled_checkpoint

TINY_TOKENIZER = (bundled_checkpoint() / "tokenizer.json").read_bytes()
tiny = Tokenizer.from_buffer(TINY_TOKENIZER)
MOST = max_bytes_per_token(TINY_TOKENIZER)

BYTES = {byte: number for number, byte in enumerate(pre_tokenizers.ByteLevel.alphabet())}

words = st.sampled_from(list(json.loads(TINY_TOKENIZER)["model"]["vocab"]))


def most_of(tokenizer: Tokenizer) -> int | None:
    return max_bytes_per_token(tokenizer.to_str().encode())


def changed(**fields: Any) -> Callable[[Tokenizer], None]:
    def change(tokenizer: Tokenizer) -> None:
        for name, value in fields.items():
            setattr(tokenizer, name, value)

    return change


def with_token(**fields: Any) -> Callable[[Tokenizer], None]:
    def add(tokenizer: Tokenizer) -> None:
        tokenizer.add_tokens([AddedToken("<pad>", **fields)])

    return add


def cut(*steps: Any) -> Callable[[Tokenizer], None]:
    return changed(pre_tokenizer=pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel()]))


@given(st.lists(st.one_of(st.text(), words)).map("".join))
def test_no_text_has_fewer_tokens_than_the_bound_allows(text: str) -> None:
    assert MOST is not None
    tokens = tiny.encode(text, add_special_tokens=False).ids
    assert len(tokens) * MOST >= len(text.encode())


def test_the_bound_is_the_longest_entry_or_added_token() -> None:
    assert MOST == 16
    tokenizer = letter_tokenizer()
    assert most_of(tokenizer) == len("<|endoftext|>")
    tokenizer.add_tokens(["é" * 10])
    assert most_of(tokenizer) == 20


def test_falcons_pre_tokenizers_keep_all_text() -> None:
    tokenizer = letter_tokenizer()
    three_digits = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
    cut(pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(), three_digits)(tokenizer)
    assert most_of(tokenizer) == len("<|endoftext|>")


@pytest.mark.parametrize(
    "change",
    [
        changed(normalizer=normalizers.Strip()),
        changed(pre_tokenizer=pre_tokenizers.Whitespace()),
        changed(pre_tokenizer=pre_tokenizers.Digits()),
        cut(pre_tokenizers.WhitespaceSplit()),
        cut(pre_tokenizers.Split(" ", "removed")),
        cut(pre_tokenizers.Sequence([pre_tokenizers.Punctuation("removed")])),
        with_token(lstrip=True),
        with_token(rstrip=True),
    ],
)
def test_a_tokenizer_that_may_drop_text_has_no_bound(change: Callable[[Tokenizer], None]) -> None:
    tokenizer = letter_tokenizer()
    change(tokenizer)
    assert most_of(tokenizer) is None


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {}, "unk_token": "?"},
        {"type": "Unigram", "vocab": []},
        {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        {"type": "BPE", "vocab": BYTES, "merges": [], "continuing_subword_prefix": "##"},
        {"type": "BPE", "vocab": BYTES, "merges": [], "end_of_word_suffix": "</w>"},
    ],
)
def test_a_tokenizer_without_all_bytes_has_no_bound(model: dict[str, Any]) -> None:
    file = json.loads(letter_tokenizer().to_str()) | {"model": model}
    assert max_bytes_per_token(json.dumps(file).encode()) is None
