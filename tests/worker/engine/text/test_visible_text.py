"""The text that a client gets ends before the stop string, whatever the tokens' borders."""

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import END_OF_TEXT_ID, byte_tokenizer
from worker.engine.sampling_params import SamplingParams
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.visible_text import StopSearch, VisibleText

short_texts = st.text("ab", min_size=1, max_size=4)


def end_of_text(text: str, stops: list[str]) -> int | None:
    """Return where the stop string begins that is complete first, the longest of several."""
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)]
    if not ends:
        return None
    return min(ends[0] - len(s) for s in stops if text[: ends[0]].endswith(s))


@given(st.lists(st.text("abc", max_size=3)), st.lists(short_texts, min_size=1, max_size=4))
def test_pieces_end_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    search, text, shown = StopSearch(stops), "", ""
    for piece in pieces:
        text += piece
        shown += search.push(piece)
        assert text.startswith(shown)
        assert search.is_found == (end_of_text(text, stops) is not None)
        if search.is_found:
            break
    assert shown + search.flush() == text[: end_of_text(text, stops)]


@given(st.text("abc"), st.lists(short_texts, min_size=1, max_size=4))
def test_only_text_that_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    search = StopSearch(stops)
    shown = search.push(text)
    if not search.is_found:
        held = text[len(shown) :]
        assert not held or any(s.startswith(held) for s in stops)


def visible(prompt: str, text: str, params: SamplingParams) -> tuple[str, bool]:
    """Return the text for the client, and whether its last token ends the sequence."""
    tokenizer = byte_tokenizer()
    result = VisibleText(TokenBytes(tokenizer), params, tokenizer.encode(prompt).ids)
    shown = ""
    for token_id in tokenizer.encode(text).ids:
        shown += result.push(token_id)
        if result.is_stopped:
            break
    return shown + result.flush(), result.is_stopped


def test_a_stop_string_stays_in_the_text_unless_the_request_excludes_it() -> None:
    for include, expected in ((True, "a\nUser:"), (False, "a")):
        params = SamplingParams(stop_strings=("\nUser:",), include_stop=include)
        assert visible("", "a\nUser: b", params) == (expected, True)


def test_an_excluded_stop_string_must_lie_in_the_new_text() -> None:
    for include, is_stopped in ((True, True), (False, False)):
        params = SamplingParams(stop_strings=("ab",), include_stop=include)
        assert visible("xa", "bc", params)[1] == is_stopped


def test_an_excluded_stop_token_adds_no_text() -> None:
    for include, expected in ((True, "xy"), (False, "x")):
        params = SamplingParams(eos_token_ids=(ord("y"), END_OF_TEXT_ID), include_stop=include)
        assert visible("", "xyz", params) == (expected, True)


def test_a_character_of_several_tokens_may_complete_a_stop_string() -> None:
    params = SamplingParams(stop_strings=("é!",), include_stop=False)
    assert visible("", "café!x", params) == ("caf", True)
