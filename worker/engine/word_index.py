"""Finds which of many words a text is about to complete, without looking at each of them.

A word is a sequence of token ids. Plain Python; made once per request, asked at every step.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completion:
    """The last token of a word, what must come before it, and what completing it adds."""

    before: list[int]
    token_id: int
    bias: float


class WordIndex:
    """Words by the token that comes before their last one; None where nothing must."""

    def __init__(self, biases: Mapping[tuple[int, ...], float]) -> None:
        self._by_previous: defaultdict[int | None, list[Completion]] = defaultdict(list)
        for (*before, token_id), bias in biases.items():
            previous = before[-1] if before else None
            self._by_previous[previous].append(Completion(before, token_id, bias))

    def completions(self, token_ids: list[int]) -> Iterator[Completion]:
        """The words that one more token would complete; `token_ids` is not empty."""
        yield from self._by_previous.get(None, ())
        for completion in self._by_previous.get(token_ids[-1], ()):
            if token_ids[-len(completion.before) :] == completion.before:
                yield completion
