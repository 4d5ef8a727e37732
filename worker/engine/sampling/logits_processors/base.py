"""The interface of logits processors: edits of some tokens' scores, and shapers of whole rows."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch

from worker.engine.sampling.token_history import TokenHistory
from worker.engine.sampling.token_sequences import TokenSequenceIndex
from worker.engine.sampling_params import SamplingParams


class Row(Protocol):
    """What sampling reads of a sequence; `worker.engine.sequence.Sequence` implements it."""

    index: int  # among the sequences of its request
    token_ids: list[int]  # prompt first
    history: TokenHistory  # of `token_ids`
    pipeline: "LogitsPipeline"

    @property
    def params(self) -> SamplingParams: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_generated_tokens(self) -> int: ...


Rows = Sequence[Row]


class Processor(ABC):
    """One rule of transformers' `GenerationConfig`, applied to the rows that use it.

    Stateless: all state is in the sequences. The result of a row depends on that row alone, to the
    last bit.
    """

    @abstractmethod
    def is_active(self, params: SamplingParams) -> bool:
        """Return whether a request with these parameters needs the processor."""


class Edit(Processor):
    """Changes the scores of certain token ids, in place."""

    @abstractmethod
    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: Rows) -> None:
        """Edit in place float32 `scores` [n, vocab]; row `rows[i]` is for `sequences[i]`."""


class Ban(Edit):
    """Set the scores of some tokens to -inf."""

    @abstractmethod
    def banned(self, sequence: Row) -> Collection[int]:
        """Return the token ids that must not come next; ids beyond the vocabulary are ignored."""

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: Rows) -> None:
        named = entries(scores, rows, [self.banned(sequence) for sequence in sequences])
        scores[named.rows, named.token_ids] = -torch.inf


class Shaper(Processor):
    """Changes a row by its scores alone, whatever their tokens.

    A column of -inf changes no other column: the caller may leave it out of the row.
    """

    is_warper: ClassVar[bool] = False  # acts in sampling only; greedy mode ignores it

    @abstractmethod
    def __call__(self, scores: torch.Tensor, sequences: Rows) -> torch.Tensor:
        """Shape float32 `scores` [n, width], row i of which is for `sequences[i]`.

        The result may be `scores` itself, changed in place.
        """


@dataclass(frozen=True, slots=True, eq=False)
class LogitsPipeline:
    """The processors of one request, in order, with the token sequences that they look up."""

    edits: tuple[Edit, ...] = ()
    shapers: tuple[Shaper, ...] = ()
    biased_sequences: TokenSequenceIndex = field(default_factory=TokenSequenceIndex)
    banned_sequences: TokenSequenceIndex = field(default_factory=TokenSequenceIndex)


@dataclass(frozen=True, slots=True)
class Entries:
    """Indices into a matrix of scores, int64 [m] each."""

    rows: torch.Tensor
    token_ids: torch.Tensor
    owners: torch.Tensor  # which of the collections given to `entries` each one is from


def entries(scores: torch.Tensor, rows: list[int], named: Iterable[Collection[int]]) -> Entries:
    """Return the indices in `scores` [n, vocab] of the tokens named for each of `rows`.

    Ids beyond the vocabulary, which an eos may have, are left out.
    """
    columns = [np.array(token_ids, dtype=np.int64) for token_ids in named]
    owners = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    token_ids = np.concatenate(columns)
    is_known = token_ids < scores.shape[1]
    owners, token_ids = owners[is_known], token_ids[is_known]
    places = np.stack([np.array(rows)[owners], token_ids, owners])
    return Entries(*torch.from_numpy(places).to(scores.device))


def per_row(scores: torch.Tensor, values: Iterable[float]) -> torch.Tensor:
    """Return one value per row as a float32 column [n, 1]."""
    return torch.tensor(list(values), dtype=scores.dtype, device=scores.device)[:, None]


def count_per_row(scores: torch.Tensor, counts: Iterable[int]) -> torch.Tensor:
    """Return one count of columns per row as an int64 column [n, 1], capped at the width."""
    column = torch.tensor(list(counts), dtype=torch.int64, device=scores.device)[:, None]
    return column.clamp_(max=scores.shape[1])
