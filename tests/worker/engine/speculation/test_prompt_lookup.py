"""Drafts from the tokens of a sequence, and the pauses after rejections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.sampling_params import SamplingParams
from worker.engine.speculation.prompt_lookup import MAX_PAUSE, PromptLookup

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=30)  # few, so that n-grams repeat


def propose(token_ids: list[int], limit: int = 4, *, num_tokens: int = 8, size: int = 2) -> str:
    """Drafts as a string of digits."""
    return "".join(map(str, PromptLookup(num_tokens, size).propose(token_ids, limit)))


def digits(text: str) -> list[int]:
    return [int(digit) for digit in text]


@pytest.mark.parametrize(
    ("text", "drafts"),
    [
        ("1", ""),
        ("1234", ""),
        ("123456712", "3456"),
        ("912345812", "3458"),  # 12 decides, not the last 2 alone
        ("5123612", "3612"),  # as far as the text goes, and round again
        ("12391245612", "4561"),  # the latest of two
        ("7787", "8787"),  # only 7 came before
        ("1111", "1111"),
    ],
)
def test_drafts_are_what_followed_the_longest_ngram_that_ends_the_text(
    text: str, drafts: str
) -> None:
    assert propose(digits(text)) == drafts


def test_drafts_are_limited_by_the_request_and_the_budget() -> None:
    assert len(propose([1, 2, 1, 2], limit=100, num_tokens=5)) == 5
    assert len(propose([1, 2, 1, 2], limit=3, num_tokens=5)) == 3
    assert propose([1, 2, 1, 2], limit=0) == ""
    assert propose([1, 2, 1, 2], limit=-1) == ""


def test_a_longer_ngram_is_looked_for_where_it_is_wanted() -> None:
    text = digits("12345692347123")
    assert propose(text, size=3) == "4569"
    assert propose(text, size=2) == "4712"


def lookup_by_scan(token_ids: list[int], limit: int, size: int) -> list[int]:
    """Return the drafts by the definition: scan all tokens for each n-gram size."""
    for n in range(min(size, len(token_ids) - 1), 0, -1):
        for start in range(len(token_ids) - n - 1, -1, -1):
            if token_ids[start : start + n] == token_ids[-n:]:
                text = list(token_ids)
                for _ in range(limit):
                    text.append(text[start + n + len(text) - len(token_ids)])
                return text[len(token_ids) :]
    return []


@given(TOKENS, st.lists(TOKENS), st.integers(1, 6), st.integers(1, 4))
def test_an_incremental_lookup_finds_what_a_lookup_of_the_whole_text_finds(
    prompt: list[int], pieces: list[list[int]], limit: int, size: int
) -> None:
    lookup, token_ids = PromptLookup(limit, size), prompt
    for piece in [*pieces, []]:
        assert lookup.propose(token_ids, limit) == lookup_by_scan(token_ids, limit, size)
        token_ids = token_ids + piece


def test_rejected_drafts_make_the_pauses_longer_until_one_is_accepted() -> None:
    lookup = PromptLookup(4, 2)
    assert pause(lookup, 7) == 0
    for expected in (1, 2, 4, 8, 16, MAX_PAUSE, MAX_PAUSE):
        lookup.record(4, 0, 7)
        assert pause(lookup, 7) == expected
    lookup.record(4, 1, 7)
    assert pause(lookup, 7) == 0
    lookup.record(4, 0, 7)
    assert pause(lookup, 7) == 1


def pause(lookup: PromptLookup, num_tokens: int) -> int:
    """Tokens to go, after these, without a draft."""
    return next(n for n in range(100) if lookup.is_ready(num_tokens + n))


@given(TOKENS, st.lists(TOKENS, max_size=6), st.integers(1, 6))
def test_only_drafts_from_the_prediction_count(
    prediction: list[int], pieces: list[list[int]], limit: int
) -> None:
    lookup, token_ids = PromptLookup(limit, 2, prediction), [7]
    accepted = rejected = 0
    for index, piece in enumerate(pieces):
        token_ids = token_ids + piece
        drafts = lookup.propose(token_ids, limit)
        num_accepted = min(index, len(drafts))
        if drafts:
            lookup.record(len(drafts), num_accepted, len(token_ids))
        num_predicted = predicted_by_scan([*prediction, *token_ids], len(prediction), limit)
        accepted += min(num_accepted, num_predicted)
        rejected += num_predicted - min(num_accepted, num_predicted)
    assert lookup.predicted == (accepted, rejected)


def predicted_by_scan(token_ids: list[int], num_predicted: int, limit: int) -> int:
    """Return how many drafts lie in the first `num_predicted` tokens, by a scan of all."""
    for n in range(min(2, len(token_ids) - 1), 0, -1):
        for start in range(len(token_ids) - n - 1, -1, -1):
            if token_ids[start : start + n] == token_ids[-n:]:
                return min(limit, max(0, num_predicted - start - n))
    return 0


def test_without_a_prediction_nothing_is_counted() -> None:
    assert PromptLookup(4, 2).predicted is None


@pytest.mark.parametrize(
    ("asked", "default", "num_drafts"),
    [(None, None, 0), (None, 3, 3), (0, 3, 0), (5, 3, 5), (5, None, 5)],
)
def test_a_request_overrides_the_default_number_of_drafts(
    asked: int | None, default: int | None, num_drafts: int
) -> None:
    lookup = PromptLookup.of(SamplingParams(prompt_lookup_num_tokens=asked), default)
    assert len(lookup.propose([1, 1], 9) if lookup else []) == num_drafts


def test_beam_searches_get_no_drafts() -> None:
    assert PromptLookup.of(SamplingParams(num_beams=2, prompt_lookup_num_tokens=5), 5) is None
