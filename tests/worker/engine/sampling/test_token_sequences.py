"""The index of words finds what looking at every word would find."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.sampling.token_sequences import WordIndex
from worker.engine.sampling_params import SamplingParams

TOKENS = st.integers(0, 2)  # few, so that words often match
WORDS = st.dictionaries(st.lists(TOKENS, min_size=1, max_size=4).map(tuple), st.integers(-9, 9))


def found(index: WordIndex, token_ids: list[int]) -> list[tuple[int, float]]:
    completions = index.completions(token_ids)
    return sorted(zip(completions.token_ids, completions.biases, strict=True))


@given(WORDS, st.lists(TOKENS, min_size=1, max_size=6))
def test_it_adds_up_what_the_words_say_that_one_more_token_would_complete(
    words: dict[tuple[int, ...], int], token_ids: list[int]
) -> None:
    def is_before_end(word: tuple[int, ...]) -> bool:
        length = len(word) - 1
        return length <= len(token_ids) and tuple(token_ids[len(token_ids) - length :]) == word[:-1]

    sums = defaultdict[int, int](int)
    for word, bias in words.items():
        if is_before_end(word):
            sums[word[-1]] += bias
    assert found(WordIndex(words), token_ids) == sorted(sums.items())


def test_being_asked_leaves_no_trace() -> None:
    index = WordIndex({(1,): 1.0, (2, 3): 2.0})
    assert found(index, [2]) == [(1, 1.0), (3, 2.0)]
    assert found(index, [5]) == [(1, 1.0)]


def test_words_are_indexed_once_per_request() -> None:
    params = SamplingParams(bad_words_ids=((1, 2),), sequence_bias=(((3,), 1.0),))
    assert params.banned_words is params.banned_words
    assert params.biased_words is params.biased_words


def test_an_eos_alone_is_no_bad_word() -> None:
    params = SamplingParams(bad_words_ids=((7,), (5, 7), (8,)), eos_token_ids=(7,))
    assert [token for token, _ in found(params.banned_words, [5])] == [7, 8]


def test_of_a_word_biased_twice_the_last_bias_counts() -> None:
    params = SamplingParams(sequence_bias=(((3,), 1.0), ((3,), 2.0)))
    assert found(params.biased_words, [0]) == [(3, 2.0)]
