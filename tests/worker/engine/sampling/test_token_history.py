"""The incremental indexes equal indexes of the whole sequence, however it grew."""

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.sampling.token_history import NgramIndex, TokenHistory

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=30)  # few, so that n-grams repeat
SIZES = st.integers(1, 4)


def successors(text: list[int], token_ids: list[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of `text`, by looking at each of its n-grams."""
    before = token_ids[len(token_ids) - size + 1 :]
    ngrams = (text[start : start + size] for start in range(len(text) - size + 1))
    return [ngram[-1] for ngram in ngrams if ngram[:-1] == before]


@given(TOKENS, st.lists(TOKENS))
def test_each_token_is_returned_once_as_the_sequence_grows(
    prompt: list[int], pieces: list[list[int]]
) -> None:
    history, token_ids = TokenHistory(), prompt
    for piece in pieces:
        assert sorted(history.distinct(token_ids)) == sorted(set(token_ids))
        token_ids = token_ids + piece
    assert sorted(history.distinct(token_ids)) == sorted(set(token_ids))


@given(TOKENS, st.lists(TOKENS), SIZES)
def test_repeating_tokens_are_found_as_the_sequence_grows(
    prompt: list[int], pieces: list[list[int]], size: int
) -> None:
    history, token_ids = TokenHistory(), prompt
    for piece in [*pieces, []]:
        expected = successors(token_ids, token_ids, size) if len(token_ids) >= size - 1 else []
        assert list(history.repeating(token_ids, size)) == expected
        token_ids = token_ids + piece


@given(TOKENS, TOKENS, SIZES)
def test_the_prompt_alone_is_searched_for_what_would_repeat_it(
    prompt: list[int], generated: list[int], size: int
) -> None:
    history = TokenHistory()
    for length in range(len(generated) + 1):
        token_ids = prompt + generated[:length]
        expected = successors(prompt, token_ids, size) if len(token_ids) >= size - 1 else []
        assert list(history.repeating_prompt(token_ids, len(prompt), size)) == expected


def test_a_text_shorter_than_the_ngram_has_no_successors() -> None:
    index = NgramIndex(4)
    index.read([1, 2])
    assert list(index.successors([1, 2])) == []
    index.read([1, 2, 3, 4])
    assert list(index.successors([9, 1, 2, 3])) == [4]


@given(TOKENS, st.lists(TOKENS, max_size=4), SIZES)
def test_forks_grow_apart(prompt: list[int], pieces: list[list[int]], size: int) -> None:
    """Each piece continues the prompt; the forked history continues as well."""
    first = TokenHistory()
    first.distinct(prompt)
    first.repeating(prompt, size)
    grown = [(first, [*prompt, 1, 1]), *((first.fork(), prompt + piece) for piece in pieces)]
    for history, token_ids in [*grown, *grown]:
        expected = successors(token_ids, token_ids, size) if len(token_ids) >= size - 1 else []
        assert list(history.repeating(token_ids, size)) == expected
        assert sorted(history.distinct(token_ids)) == sorted(set(token_ids))
