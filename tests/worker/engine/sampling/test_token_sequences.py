"""The index of token sequences finds what a look at each sequence would find."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.sampling.logits_processors import make_pipeline
from worker.engine.sampling.token_sequences import TokenSequenceIndex
from worker.engine.sampling_params import SamplingParams

TOKENS = st.integers(0, 2)  # few, so that words often match
WORDS = st.dictionaries(st.lists(TOKENS, min_size=1, max_size=4).map(tuple), st.integers(-9, 9))


def found(index: TokenSequenceIndex, token_ids: list[int]) -> list[tuple[int, float]]:
    completions = index.completions(token_ids)
    return sorted(zip(completions.token_ids, completions.biases, strict=True))


@given(WORDS, st.lists(TOKENS, min_size=1, max_size=6))
def test_biases_of_all_sequences_that_one_more_token_completes_are_added_up(
    words: dict[tuple[int, ...], int], token_ids: list[int]
) -> None:
    def is_before_end(word: tuple[int, ...]) -> bool:
        length = len(word) - 1
        return length <= len(token_ids) and tuple(token_ids[len(token_ids) - length :]) == word[:-1]

    sums = defaultdict[int, int](int)
    for word, bias in words.items():
        if is_before_end(word):
            sums[word[-1]] += bias
    assert found(TokenSequenceIndex(words), token_ids) == sorted(sums.items())


def test_a_lookup_does_not_change_the_index() -> None:
    index = TokenSequenceIndex({(1,): 1.0, (2, 3): 2.0})
    assert found(index, [2]) == [(1, 1.0), (3, 2.0)]
    assert found(index, [5]) == [(1, 1.0)]


def test_a_single_eos_token_is_not_banned_as_a_bad_word() -> None:
    params = SamplingParams(bad_words_ids=((7,), (5, 7), (8,)), eos_token_ids=(7,))
    assert [token for token, _ in found(make_pipeline(params).banned_sequences, [5])] == [7, 8]


def test_the_last_bias_of_a_sequence_counts() -> None:
    params = SamplingParams(sequence_bias=(((3,), 1.0), ((3,), 2.0)))
    assert found(make_pipeline(params).biased_sequences, [0]) == [(3, 2.0)]
