"""What a logits processor is: an edit of some tokens' scores, or a shaper of whole rows."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence


class Processor(ABC):
    """One rule of transformers' `GenerationConfig`, applied to the rows that use it.

    Stateless: the sequences carry everything. Rows never mix: what comes out of a row depends on
    that row alone, to the last bit.
    """

    @abstractmethod
    def is_active(self, params: SamplingParams) -> bool:
        """Whether a request with these parameters needs the processor."""


class Edit(Processor):
    """Changes the scores of tokens that it knows by their ids."""

    @abstractmethod
    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: list[Sequence]) -> None:
        """Edit in place float32 `scores` [n, vocab]; row `rows[i]` is for `sequences[i]`."""


class Ban(Edit):
    """Sets the scores of some tokens to -inf."""

    @abstractmethod
    def banned(self, sequence: Sequence) -> Collection[int]:
        """Token ids that must not come next; ids outside the vocabulary are ignored."""

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: list[Sequence]) -> None:
        named = entries(scores, rows, [self.banned(sequence) for sequence in sequences])
        scores[named.rows, named.token_ids] = -torch.inf


class Shaper(Processor):
    """Changes a row by its scores alone, whatever tokens they are of.

    Columns of -inf do not count, so a row may be reduced to the columns that are left. Warpers
    are shapers that act in sampling only; in greedy mode they are ignored.
    """

    is_warper: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        """Shape float32 `scores` [n, width], row i of which is for `sequences[i]`.

        The result may be `scores` itself, changed in place.
        """


@dataclass(frozen=True, slots=True)
class Entries:
    """Places in a matrix of scores, int64 [m] each, and which of the `named` each one is of."""

    rows: torch.Tensor
    token_ids: torch.Tensor
    owners: torch.Tensor


def entries(scores: torch.Tensor, rows: list[int], named: Iterable[Collection[int]]) -> Entries:
    """The places in `scores` [n, vocab] of the tokens named for each of `rows`.

    Ids beyond the vocabulary, as an eos may be, are left out.
    """
    columns = [np.array(token_ids, dtype=np.int64) for token_ids in named]
    owners = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    token_ids = np.concatenate(columns)
    is_known = token_ids < scores.shape[1]
    owners, token_ids = owners[is_known], token_ids[is_known]
    places = np.stack([np.array(rows)[owners], token_ids, owners])
    return Entries(*torch.from_numpy(places).to(scores.device))


def per_row(scores: torch.Tensor, values: Iterable[float]) -> torch.Tensor:
    """One value per row as a float32 column [n, 1]."""
    return torch.tensor(list(values), dtype=scores.dtype, device=scores.device)[:, None]


def count_per_row(scores: torch.Tensor, counts: Iterable[int]) -> torch.Tensor:
    """One count of columns per row as an int64 column [n, 1], at most all of them."""
    column = torch.tensor(list(counts), dtype=torch.int64, device=scores.device)[:, None]
    return column.clamp_(max=scores.shape[1])
