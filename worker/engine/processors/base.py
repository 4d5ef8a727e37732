"""What a logits processor is, and the two things most of them do: per-row values, per-row bans."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch

from worker.engine.params import SamplingParams
from worker.engine.sequence import Sequence


class Processor(ABC):
    """One rule of transformers' `GenerationConfig`, applied to rows that all use it.

    Stateless: the sequences carry everything. Warpers shape the distribution, so they act in
    sampling only; in greedy mode they are ignored.
    """

    is_warper: ClassVar[bool] = False

    @abstractmethod
    def is_active(self, params: SamplingParams) -> bool:
        """Whether a request with these parameters needs the processor."""

    @abstractmethod
    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        """Process float32 `scores` [n, vocab], row i of which is for `sequences[i]`.

        May work in place; the rows of different sequences never mix.
        """


class Ban(Processor):
    """A processor that sets the scores of some tokens to -inf."""

    @abstractmethod
    def banned(self, sequence: Sequence) -> Iterable[int]:
        """Token ids that must not come next; ids outside the vocabulary are ignored."""

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        rows, token_ids = entries(scores, sequences, self.banned)
        scores[rows, token_ids] = -torch.inf
        return scores


def per_row(scores: torch.Tensor, values: Iterable[float]) -> torch.Tensor:
    """One value per row as a float32 column [n, 1]."""
    return torch.tensor(list(values), dtype=scores.dtype, device=scores.device)[:, None]


def entries(
    scores: torch.Tensor,
    sequences: list[Sequence],
    token_ids_of: Callable[[Sequence], Iterable[int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and token indices, int64 [m] each, of the tokens that each sequence names."""
    vocab_size = scores.shape[1]
    pairs = [
        (row, token_id)
        for row, sequence in enumerate(sequences)
        for token_id in token_ids_of(sequence)
        if token_id < vocab_size
    ]
    index = torch.tensor(pairs, dtype=torch.int64, device=scores.device).reshape(-1, 2)
    return index[:, 0], index[:, 1]
