"""The interface of logits processors: in place on some tokens' scores, or on whole rows."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch

from worker.engine.grammar.output_constraint import OutputConstraint
from worker.engine.sampling.token_history import TokenHistory
from worker.engine.sampling.token_sequences import TokenSequenceIndex
from worker.engine.sampling_params import SamplingParams
from worker.model.device_map import upload


class SequenceView(Protocol):
    """What sampling reads of a sequence; `worker.engine.sequence.Sequence` implements it."""

    index: int  # among the sequences of its request
    token_ids: list[int]  # prompt first
    history: TokenHistory  # of `token_ids`
    pipeline: "LogitsPipeline"
    constraint: OutputConstraint | None

    @property
    def params(self) -> SamplingParams: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_generated_tokens(self) -> int: ...
    @property
    def generated_token_ids(self) -> list[int]: ...


SequenceViews = Sequence[SequenceView]


class LogitsProcessor(ABC):
    """One rule of transformers' `GenerationConfig`, applied to the rows that use it.

    Stateless: all state is in the sequences. The result of a row depends on that row alone: on
    a CPU to the last bit, on a GPU but for rounding.
    """

    @abstractmethod
    def is_active(self, params: SamplingParams) -> bool:
        """Return whether a request with these parameters needs the processor."""


class InPlaceProcessor(LogitsProcessor):
    """Change the scores of certain token ids, in place."""

    @abstractmethod
    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        """Process float32 `scores` [n, vocab] in place; row `rows[i]` is for `sequences[i]`."""


class Ban(InPlaceProcessor):
    """Set the scores of some tokens to -inf."""

    @abstractmethod
    def banned(self, sequence: SequenceView) -> Collection[int]:
        """Return the token ids that must not come next; ids beyond the vocabulary are ignored."""

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: SequenceViews) -> None:
        indices = score_indices(scores, rows, [self.banned(sequence) for sequence in sequences])
        scores[indices.rows, indices.token_ids] = -torch.inf


class RowProcessor(LogitsProcessor):
    """Change a row by its scores alone, whatever their tokens.

    A column of -inf changes no other column: the caller may leave it out of the row.
    """

    is_warper: ClassVar[bool] = False  # acts in sampling only; greedy mode ignores it

    @abstractmethod
    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        """Process float32 `scores` [n, width], row i of which is for `sequences[i]`.

        The result may be `scores` itself, changed in place.
        """


@dataclass(frozen=True, slots=True, eq=False)
class LogitsPipeline:
    """The processors of one request, in order, with the token sequences that they look up."""

    in_place_processors: tuple[InPlaceProcessor, ...] = ()
    row_processors: tuple[RowProcessor, ...] = ()
    biased_sequences: TokenSequenceIndex = field(default_factory=TokenSequenceIndex)
    banned_sequences: TokenSequenceIndex = field(default_factory=TokenSequenceIndex)
    takes_best: bool = False  # the best logit is the next token: no parameter asks for more
    samples_plainly: bool = False  # by temperature, top-k and top-p alone


@dataclass(frozen=True, slots=True)
class ScoreIndices:
    """Indices into a matrix of scores, int64 [m] each."""

    rows: torch.Tensor
    token_ids: torch.Tensor
    sequences: torch.Tensor  # indices into the sequences given to the processor


def score_indices(
    scores: torch.Tensor, rows: list[int], token_ids_of_rows: Iterable[Collection[int]]
) -> ScoreIndices:
    """Return the indices in `scores` [n, vocab] of the token ids given for each of `rows`.

    Ids beyond the vocabulary, which an eos may have, are left out.
    """
    columns = [np.array(token_ids, dtype=np.int64) for token_ids in token_ids_of_rows]
    sequences = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    token_ids = np.concatenate(columns)
    is_known = token_ids < scores.shape[1]
    sequences, token_ids = sequences[is_known], token_ids[is_known]
    indices = np.stack([np.array(rows)[sequences], token_ids, sequences])
    return ScoreIndices(*upload([indices], scores.device)[0])


def per_row(scores: torch.Tensor, values: Iterable[float]) -> torch.Tensor:
    """Return one value per row as a float32 column [n, 1]."""
    column = torch.tensor(list(values), dtype=scores.dtype).numpy()
    return upload([column], scores.device)[0][:, None]


def count_per_row(scores: torch.Tensor, counts: Iterable[int]) -> torch.Tensor:
    """Return one count of columns per row as an int64 column [n, 1], capped at the width."""
    column = np.fromiter(counts, dtype=np.int64).clip(max=scores.shape[1])
    return upload([column], scores.device)[0][:, None]
