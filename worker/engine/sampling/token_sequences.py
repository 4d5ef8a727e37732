"""Find the token sequences that one more token would complete, without a look at each of them.

Plain Python. An index is built once per request and read at every step.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Completions:
    """The last tokens of sequences, each once, and the bias for completing them, in float32."""

    token_ids: "array[int]" = field(default_factory=lambda: array("q"))
    biases: "array[float]" = field(default_factory=lambda: array("f"))

    def plus(self, others: list[tuple[int, float]]) -> "Completions":
        """Return these and other tokens with their biases; biases of one token add up."""
        completions = Completions(self.token_ids[:], self.biases[:])
        places = {token_id: place for place, token_id in enumerate(self.token_ids)}
        for token_id, bias in others:
            if token_id in places:
                completions.biases[places[token_id]] += bias
            else:
                places[token_id] = len(completions.token_ids)
                completions.token_ids.append(token_id)
                completions.biases.append(bias)
        return completions


class TokenSequenceIndex:
    """Biases of token sequences, found by the last token but one."""

    def __init__(self, biases: Mapping[tuple[int, ...], float] = MappingProxyType({})) -> None:
        rounded = zip(biases, array("f", biases.values()), strict=True)
        single: list[tuple[int, float]] = []
        self._by_previous: defaultdict[int, list[tuple[list[int], int, float]]] = defaultdict(list)
        for (*before, token_id), bias in rounded:
            if before:
                self._by_previous[before[-1]].append((before, token_id, bias))
            else:
                single.append((token_id, bias))
        self._single = Completions().plus(single)

    def completions(self, token_ids: list[int]) -> Completions:
        """Return what one more token would complete; do not change it. `token_ids` is not empty."""
        found = [
            (token_id, bias)
            for before, token_id, bias in self._by_previous.get(token_ids[-1], ())
            if token_ids[-len(before) :] == before
        ]
        return self._single.plus(found) if found else self._single
