"""Pieces of text against decoding everything at once; stop strings across token borders."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.fakes import END_OF_TEXT_ID, byte_tokenizer
from worker.engine.text.detokenizer import Detokenizer, StopStrings, TokenBytes

TEXT = "The falcon sees the queue. Größe, naïve café — 日本語のテキスト, 🦅🦅 émigré, ßßß. " * 3


@cache
def trained_tokenizer() -> Tokenizer:
    """Byte-level BPE with merges inside characters, and special and plain added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>", ">>ANSWER<<"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_tokens(["<plain added>", "⟨ö⟩"])
    return tokenizer


def stream(tokenizer: Tokenizer, context: list[int], token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TokenBytes(tokenizer), context)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


token_ids = st.integers(0, 345)  # a few ids beyond the vocabulary too: they have no text


@given(st.lists(token_ids, max_size=40))
def test_the_pieces_joined_are_the_whole_text(ids: list[int]) -> None:
    tokenizer = trained_tokenizer()
    assert "".join(stream(tokenizer, [], ids)) == tokenizer.decode(ids)


@given(st.text(max_size=20), st.lists(token_ids, max_size=40))
def test_after_a_prompt_the_pieces_are_what_decoding_adds(prompt: str, ids: list[int]) -> None:
    tokenizer = trained_tokenizer()
    context = tokenizer.encode(prompt).ids
    expected = tokenizer.decode(context + ids)[len(tokenizer.decode(context)) :]
    assert "".join(stream(tokenizer, context, ids)) == expected


@given(st.text(max_size=40))
def test_text_survives_the_round_trip(text: str) -> None:
    tokenizer = byte_tokenizer()
    assert "".join(stream(tokenizer, [], tokenizer.encode(text).ids)) == text


def test_a_character_appears_with_its_last_byte() -> None:
    eagle = list("🦅".encode())
    assert stream(byte_tokenizer(), [], [*eagle, ord("!")]) == ["", "", "", "🦅", "!", ""]


def test_a_character_that_began_in_the_prompt_is_completed() -> None:
    first, *rest = list("🦅".encode())
    assert stream(byte_tokenizer(), [ord("a"), first], rest) == ["", "", "🦅", ""]


def test_a_character_that_never_ends_is_flushed_as_a_replacement() -> None:
    assert stream(byte_tokenizer(), [], list("é".encode())[:1]) == ["", "\ufffd"]


def test_special_tokens_have_no_text_and_split_no_character() -> None:
    first, second = "é".encode()
    assert stream(byte_tokenizer(), [], [first, END_OF_TEXT_ID, second]) == ["", "", "é", ""]


# Each has characters that byte-level BPE also spells bytes with, so that reading them as bytes
# yields other text. tokenizers 0.23.3 does: encoding is the oracle here, decoding is not.
ADDED = ["café", "Ġhi", "naïve¡", "⟨ö⟩", "日本", "<|fin|>", "é"]
NUM_SPECIAL = 3


@cache
def tokenizer_with_added_text() -> Tokenizer:
    tokenizer = Tokenizer.from_str(trained_tokenizer().to_str())
    tokenizer.add_special_tokens(ADDED[:NUM_SPECIAL])
    tokenizer.add_tokens(ADDED[NUM_SPECIAL:])
    return tokenizer


pieces = st.lists(st.one_of(st.sampled_from(ADDED), st.sampled_from(["G", " caf", "ß", "🦅"])))


@given(pieces, pieces)
def test_an_added_token_has_the_text_that_it_was_added_with(
    prompt: list[str], text: list[str]
) -> None:
    tokenizer = tokenizer_with_added_text()
    special = {tokenizer.token_to_id(token) for token in ADDED[:NUM_SPECIAL]}
    context, ids = (tokenizer.encode("".join(part)).ids for part in (prompt, text))
    encoded = TokenBytes(tokenizer)
    assert b"".join(map(encoded.bytes_of, ids)).decode() == "".join(text)
    spoken = [token_id for token_id in ids if token_id not in special]
    assert "".join(stream(tokenizer, context, ids)) == "".join(stream(tokenizer, context, spoken))
    if len(spoken) == len(ids):
        assert "".join(stream(tokenizer, context, ids)) == "".join(text)


@pytest.mark.parametrize("added", ADDED)
def test_a_stop_string_finds_added_tokens_and_crosses_their_borders(added: str) -> None:
    tokenizer = tokenizer_with_added_text()
    ids = tokenizer.encode(f"ab{added}cd").ids
    position = ids.index(tokenizer.token_to_id(added))
    for stop_string, end in ((added, 0), (f"b{added}", 0), (f"{added}c", 1), (added[-1], 0)):
        stops = StopStrings(TokenBytes(tokenizer), [stop_string], [])
        assert [stops.push(i) for i in ids].index(True) == position + end, stop_string


def test_a_tokenizer_that_is_not_byte_level_is_refused_by_name() -> None:
    tokenizer = Tokenizer(models.WordLevel(vocab={"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="must be ByteLevel, not None"):
        TokenBytes(tokenizer)


def completions(context: str, text: str, *stop_strings: str) -> list[int]:
    """Indices of the single-byte tokens of `text` that complete a stop string."""
    stops = StopStrings(TokenBytes(byte_tokenizer()), stop_strings, list(context.encode()))
    return [index for index, token_id in enumerate(text.encode()) if stops.push(token_id)]


def test_a_stop_string_may_cross_token_borders_and_begin_in_the_prompt() -> None:
    assert completions("", "one stop two stop", "stop") == [7, 16]
    assert completions("...st", "op here", "stop") == [1]


def test_a_stop_string_wholly_in_the_prompt_stops_nothing() -> None:
    assert completions("stop", " and on", "stop") == []


def test_overlapping_stop_strings_are_each_found() -> None:
    assert completions("", "ababa", "aba", "bab") == [2, 3, 4]


def test_a_token_may_continue_after_the_stop_string() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"abc": 0, "x": 1}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    stops = StopStrings(TokenBytes(tokenizer), ["xab"], [])
    assert [stops.push(token_id) for token_id in (1, 0, 0)] == [False, True, False]


def test_a_special_token_counts_by_its_name() -> None:
    stops = StopStrings(TokenBytes(byte_tokenizer()), ["<|endoftext|>"], [])
    assert stops.push(END_OF_TEXT_ID)


@given(
    st.text("ab", max_size=12),
    st.text("ab", max_size=25),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_stop_strings_are_found_exactly_where_they_end(
    context: str, text: str, stop_strings: list[str]
) -> None:
    whole = context + text
    ends = {
        start + len(stop)
        for stop in stop_strings
        for start in range(len(whole))
        if whole.startswith(stop, start)
    }
    expected = [index for index in range(len(text)) if len(context) + index + 1 in ends]
    assert completions(context, text, *stop_strings) == expected
