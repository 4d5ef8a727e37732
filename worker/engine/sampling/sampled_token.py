"""A token that was sampled for a row, or the reason why there is none."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from worker.engine.outputs import FailureCause
from worker.engine.sampling.logits_processors.base import SequenceViews
from worker.model.device_map import upload

NOTHING_TO_SAMPLE = (
    "no token can be sampled: the parameters ban every token or make the scores infinite"
)


@dataclass(slots=True)
class SampledToken:
    """The next token of a row; log-probabilities are under the processed scores."""

    token_id: int
    logprob: float | None = None  # where `logprobs` is on
    top_logprobs: dict[int, float] | None = None  # where `top_logprobs` is above 0; best first


@dataclass(frozen=True, slots=True)
class SamplingFailure:
    """Why a row has no next token."""

    reason: str
    cause: FailureCause


@dataclass(frozen=True, slots=True)
class Logprobs:
    """The log-probabilities that some rows report, on the scores' device."""

    rows: list[int]  # indices into the sequences of a choice
    chosen: torch.Tensor  # float32 [len(rows)], of the token
    # Rows by the number of their likeliest tokens, with values and token ids, each [n, count].
    best: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(
        cls,
        logprobs: torch.Tensor,
        columns: torch.Tensor,
        rows: list[int],
        sequences: SequenceViews,
        token_ids: torch.Tensor | None = None,
    ) -> "Logprobs":
        """Take what `rows` report from their `logprobs` float32 [len(rows), width].

        `columns` int64 [len(rows)] hold the tokens. Column i of a row is token
        `token_ids[row, i]`, or token i. Rows that want equally many tokens go together: a row's
        ties must not depend on another row's number.
        """
        places_by_count: defaultdict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            if count := sequences[row].params.top_logprobs:
                places_by_count[count].append(place)
        best = {}
        for count, places in places_by_count.items():
            top = take_rows(logprobs, places).topk(min(count, logprobs.shape[1]))
            known = top.indices
            if token_ids is not None:
                known = take_rows(token_ids, places).gather(-1, known)
            best[tuple(rows[place] for place in places)] = top.values, known
        return cls(rows, logprobs.gather(-1, columns[:, None])[:, 0], best)

    def tensors(self) -> Iterator[torch.Tensor]:
        yield self.chosen
        for pair in self.best.values():
            yield from pair

    def add_to(
        self, tokens: list[SampledToken], sequences: SequenceViews, lists: Iterator[Any]
    ) -> None:
        """Replace the tokens of the rows by tokens with log-probabilities from `lists`."""
        for row, logprob in zip(self.rows, next(lists), strict=True):
            is_wanted = sequences[row].params.logprobs and not math.isnan(logprob)
            tokens[row] = replace(tokens[row], logprob=logprob if is_wanted else None)
        for rows in self.best:
            for row, values, token_ids in zip(rows, next(lists), next(lists), strict=True):
                tokens[row] = replace(tokens[row], top_logprobs=_possible(token_ids, values))


def top_columns(logprobs: torch.Tensor, count: int) -> list[dict[int, float]]:
    """Return the likeliest columns of each row [n, width], best first, without banned tokens."""
    best = logprobs.topk(min(count, logprobs.shape[-1]))
    values, columns = to_lists([best.values, best.indices])
    return [_possible(*row) for row in zip(columns, values, strict=True)]


def _possible(token_ids: list[int], logprobs: list[float]) -> dict[int, float]:
    pairs = zip(token_ids, logprobs, strict=True)
    return {token_id: logprob for token_id, logprob in pairs if logprob > -torch.inf}


@dataclass(frozen=True, slots=True)
class Choice:
    """The tokens chosen for some rows, before they are copied to the host."""

    sequences: SequenceViews
    token_ids: torch.Tensor  # int64 [n]
    logprobs: list[Logprobs]
    best: torch.Tensor | None = None  # float32 [n]: the best score, not finite without a token

    def tensors(self) -> Iterator[torch.Tensor]:
        yield self.token_ids
        if self.best is not None:
            yield self.best
        for part in self.logprobs:
            yield from part.tensors()

    def to_tokens(self, lists: Iterator[Any]) -> list[SampledToken | SamplingFailure]:
        """Make tokens of the `tensors` as lists; a row without a distribution fails."""
        tokens = [SampledToken(token_id) for token_id in next(lists)]
        best = next(lists) if self.best is not None else [0.0] * len(tokens)
        for part in self.logprobs:
            part.add_to(tokens, self.sequences, lists)
        failure = SamplingFailure(NOTHING_TO_SAMPLE, FailureCause.PARAMETERS)
        pairs = zip(tokens, best, strict=True)
        return [token if math.isfinite(score) else failure for token, score in pairs]


def take_rows(matrix: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return some rows of [n, width]; `matrix` itself if they are all its rows in order."""
    if rows == list(range(len(matrix))):
        return matrix
    [index] = upload([np.array(rows, dtype=np.int64)], matrix.device)
    return matrix.index_select(0, index)


def to_lists(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """Return tensors of token ids and float32 scores as lists; a GPU is read once.

    In float64, which holds each of them exactly.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.tolist() for tensor in tensors]
    joined = torch.cat([tensor.double().flatten() for tensor in tensors]).cpu()
    parts = torch.split(joined, [tensor.numel() for tensor in tensors])
    pairs = zip(parts, tensors, strict=True)
    return [part.to(tensor.dtype).view(tensor.shape).tolist() for part, tensor in pairs]
