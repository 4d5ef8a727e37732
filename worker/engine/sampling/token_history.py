"""What the tokens of a growing sequence have shown so far, kept up as it grows.

Plain Python. Reading the whole context anew at every step would cost more the longer it gets.
"""

from array import array
from collections import defaultdict
from copy import copy


class TokenHistory:
    """Follows one list of tokens; all it has been asked about must still be there.

    Nothing is built before it is asked for: most sequences need neither index.
    """

    __slots__ = ("_distinct", "_num_read", "_own_ngrams", "_prompt_ngrams", "_seen")

    def __init__(self) -> None:
        self._distinct = array("q")
        self._seen: set[int] = set()
        self._num_read = 0
        self._own_ngrams: NgramIndex | None = None
        self._prompt_ngrams: NgramIndex | None = None

    def fork(self) -> "TokenHistory":
        """The same history, from where another sequence goes on."""
        other = copy(self)
        other._distinct = self._distinct[:]
        other._seen = self._seen.copy()
        other._own_ngrams = self._own_ngrams and self._own_ngrams.fork()
        return other

    def distinct(self, token_ids: list[int]) -> "array[int]":
        """Each token of the sequence once."""
        for token_id in token_ids[self._num_read :]:
            if token_id not in self._seen:
                self._seen.add(token_id)
                self._distinct.append(token_id)
        self._num_read = len(token_ids)
        return self._distinct

    def repeating(self, token_ids: list[int], size: int) -> "array[int]":
        """Tokens that would complete an n-gram of `size` that the sequence holds."""
        if self._own_ngrams is None:
            self._own_ngrams = NgramIndex(size)
        self._own_ngrams.read(token_ids)
        return self._own_ngrams.successors(token_ids)

    def repeating_prompt(
        self, prompt_token_ids: list[int], token_ids: list[int], size: int
    ) -> "array[int]":
        """Tokens that would complete an n-gram of `size` that the prompt holds."""
        if self._prompt_ngrams is None:
            self._prompt_ngrams = NgramIndex(size)
            self._prompt_ngrams.read(prompt_token_ids)
        return self._prompt_ngrams.successors(token_ids)


class NgramIndex:
    """The tokens that end an n-gram, by the n - 1 tokens before them."""

    __slots__ = ("_is_forked", "_num_before", "_num_read", "_successors")

    def __init__(self, size: int) -> None:
        self._num_before = size - 1
        self._num_read = self._num_before
        self._successors: defaultdict[tuple[int, ...], array[int]] = defaultdict(_no_tokens)
        self._is_forked = False

    def fork(self) -> "NgramIndex":
        """The same index, to read on in another text that begins alike."""
        self._is_forked = True
        other = copy(self)
        other._successors = self._successors.copy()
        return other

    def read(self, text: list[int]) -> None:
        """Take in what `text` holds beyond its length at the last call."""
        for end in range(self._num_read, len(text)):
            before = tuple(text[end - self._num_before : end])
            if self._is_forked:  # the tokens known so far may be another's as well
                self._successors[before] = self._successors[before][:]
            self._successors[before].append(text[end])
        self._num_read = max(self._num_read, len(text))

    def successors(self, token_ids: list[int]) -> "array[int]":
        """What followed the end of `token_ids` before, repetitions included."""
        before = tuple(token_ids[len(token_ids) - self._num_before :])
        return self._successors.get(before) or _no_tokens()


def _no_tokens() -> "array[int]":
    return array("q")
