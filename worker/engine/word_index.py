"""Finds which of many words a text is about to complete, without looking at each of them.

A word is a sequence of token ids. Plain Python; made once per request, asked at every step.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Completions:
    """The last tokens of words, and what completing each of them adds."""

    token_ids: "array[int]" = field(default_factory=lambda: array("q"))
    biases: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, token_id: int, bias: float) -> None:
        self.token_ids.append(token_id)
        self.biases.append(bias)


class WordIndex:
    """Words of one token, ready to be handed out, and longer ones by what comes before the last."""

    def __init__(self, biases: Mapping[tuple[int, ...], float]) -> None:
        self._single = Completions()
        self._by_previous: defaultdict[int, list[tuple[list[int], int, float]]] = defaultdict(list)
        for (*before, token_id), bias in biases.items():
            if before:
                self._by_previous[before[-1]].append((before, token_id, bias))
            else:
                self._single.add(token_id, bias)

    def completions(self, token_ids: list[int]) -> Completions:
        """The words that one more token would complete, to be read only; those of one token first.

        `token_ids` is not empty.
        """
        found = [
            (token_id, bias)
            for before, token_id, bias in self._by_previous.get(token_ids[-1], ())
            if token_ids[-len(before) :] == before
        ]
        if not found:
            return self._single
        completions = Completions(self._single.token_ids[:], self._single.biases[:])
        for token_id, bias in found:
            completions.add(token_id, bias)
        return completions
