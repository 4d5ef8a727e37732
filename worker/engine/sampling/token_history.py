"""Incremental indexes of a growing sequence: its distinct tokens, their counts, its n-grams.

Reading the whole context again at every step would cost more the longer it gets.
"""

from array import array
from collections import defaultdict
from copy import copy


class TokenHistory:
    """Index one list of tokens, which may only grow.

    An index is built when it is first used: most sequences need none.
    """

    __slots__ = (
        "_counts",
        "_distinct",
        "_num_counted",
        "_num_read",
        "_own_ngrams",
        "_prompt_ngrams",
        "_seen",
    )

    def __init__(self) -> None:
        self._distinct = array("q")
        self._seen: set[int] = set()
        self._num_read = 0
        self._counts: dict[int, int] = {}
        self._num_counted = 0
        self._own_ngrams: NgramIndex | None = None
        self._prompt_ngrams: NgramIndex | None = None

    def fork(self) -> "TokenHistory":
        """Return a copy for another sequence that begins with the same tokens."""
        other = copy(self)
        other._distinct = self._distinct[:]
        other._seen = self._seen.copy()
        other._counts = self._counts.copy()
        other._own_ngrams = self._own_ngrams and self._own_ngrams.fork()
        return other

    def distinct(self, token_ids: list[int]) -> "array[int]":
        """Return each token of the sequence once."""
        for token_id in token_ids[self._num_read :]:
            if token_id not in self._seen:
                self._seen.add(token_id)
                self._distinct.append(token_id)
        self._num_read = len(token_ids)
        return self._distinct

    def counts(self, token_ids: list[int], num_prompt_tokens: int) -> dict[int, int]:
        """Return how often each token follows the prompt."""
        for token_id in token_ids[max(self._num_counted, num_prompt_tokens) :]:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1
        self._num_counted = len(token_ids)
        return self._counts

    def repeating(self, token_ids: list[int], size: int) -> "array[int]":
        """Return tokens that would complete an n-gram of `size` that the sequence holds."""
        if self._own_ngrams is None:
            self._own_ngrams = NgramIndex(size)
        self._own_ngrams.read(token_ids)
        return self._own_ngrams.successors(token_ids)

    def repeating_prompt(
        self, token_ids: list[int], num_prompt_tokens: int, size: int
    ) -> "array[int]":
        """Return tokens that would complete an n-gram of `size` that the prompt holds."""
        if self._prompt_ngrams is None:
            self._prompt_ngrams = NgramIndex(size)
            self._prompt_ngrams.read(token_ids[:num_prompt_tokens])
        return self._prompt_ngrams.successors(token_ids)


class NgramIndex:
    """The last tokens of n-grams, by the n - 1 tokens before them."""

    __slots__ = ("_is_forked", "_num_before", "_num_read", "_successors")

    def __init__(self, size: int) -> None:
        self._num_before = size - 1
        self._num_read = self._num_before
        self._successors: defaultdict[tuple[int, ...], array[int]] = defaultdict(_no_tokens)
        self._is_forked = False

    def fork(self) -> "NgramIndex":
        """Return a copy for another text that begins with the tokens read so far."""
        self._is_forked = True
        other = copy(self)
        other._successors = self._successors.copy()
        return other

    def read(self, text: list[int]) -> None:
        """Index the tokens that `text` has gained since the last call."""
        for end in range(self._num_read, len(text)):
            before = tuple(text[end - self._num_before : end])
            if self._is_forked:  # another fork may share this array
                self._successors[before] = self._successors[before][:]
            self._successors[before].append(text[end])
        self._num_read = max(self._num_read, len(text))

    def successors(self, token_ids: list[int]) -> "array[int]":
        """Return what followed the end of `token_ids` before, with repetitions."""
        before = tuple(token_ids[len(token_ids) - self._num_before :])
        return self._successors.get(before) or _no_tokens()


def _no_tokens() -> "array[int]":
    return array("q")
