"""Sample the next token of each row from its logits.

Stateless: a token depends on the row's logits, parameters, seed and tokens alone. On a CPU it does
not depend on other rows of the batch, to the last bit. A GPU's libraries choose the order of a sum
by the number of rows: there, rounding in another batch can change a token.
"""

from collections import defaultdict
from dataclasses import replace
from enum import Enum, auto

import torch

from worker.engine.outputs import FailureCause
from worker.engine.sampling.logits_processors import apply_in_place_processors, apply_row_processors
from worker.engine.sampling.logits_processors.base import (
    SequenceView,
    SequenceViews,
    count_per_row,
    per_row,
)
from worker.engine.sampling.multinomial import multinomial, multinomial_tiled
from worker.engine.sampling.philox import uniforms
from worker.engine.sampling.sampled_token import (
    Choice,
    Logprobs,
    SampledToken,
    SamplingFailure,
    take_rows,
    to_lists,
)
from worker.engine.sampling.sorting import best_columns
from worker.engine.sampling.tiled_scores import TiledScores
from worker.model.device_map import upload

INVALID_LOGITS = "the model's logits contain nan or inf; remove_invalid_values would repair them"
OFF_GRAMMAR = "no token can be sampled: the other parameters ban every token of the grammar"


class SamplingMethod(Enum):
    """How rows get their tokens after the in-place processors; rows of one method go together."""

    GREEDY = auto()
    GREEDY_PROCESSED = auto()
    TOP_K = auto()  # top-k keeps so few columns that the others need no look
    FULL = auto()

    @classmethod
    def of(cls, sequence: SequenceView, scores: TiledScores) -> "SamplingMethod":
        if not sequence.params.do_sample:
            return cls.GREEDY_PROCESSED if sequence.pipeline.row_processors else cls.GREEDY
        count = sequence.params.num_candidates
        return cls.TOP_K if count is not None and count <= scores.num_tiles else cls.FULL


@torch.inference_mode()
def sample_tokens(
    logits: torch.Tensor, sequences: SequenceViews
) -> list[SampledToken | SamplingFailure]:
    """Sample the next token of each sequence from float32 `logits` [n, vocab].

    A row with nan or inf fails, unless its request repairs them; other rows do not notice. The
    contents of `logits` are lost: penalties and bans work in place.
    """
    if not sequences:
        return []
    if all(sequence.pipeline.takes_best for sequence in sequences):
        return _take_best(logits)
    scores = TiledScores(logits)
    raw = RawLogprobs(logits, sequences)
    tensors, is_constrained = [scores.best()], any(s.constraint for s in sequences)
    scores = _process_in_place(scores, sequences)
    if is_constrained:
        tensors.append(scores.best())
    choices: list[tuple[list[int], Choice]] = []
    for method, rows in _rows_by_method(scores, sequences).items():
        chosen = _choose(method, scores, rows, [sequences[row] for row in rows])
        choice = raw.add_to(chosen, rows)
        choices.append((rows, choice))
        tensors += choice.tensors()
    lists = iter(to_lists(tensors))  # the only wait for a GPU that greedy rows need
    failures = _find_invalid(next(lists), sequences)
    if is_constrained:
        failures = _find_dead_ends(next(lists), sequences) | failures
    sampled: dict[int, SampledToken | SamplingFailure] = {}
    for rows, choice in choices:
        sampled |= zip(rows, choice.to_tokens(lists), strict=True)
    return [failures.get(row) or sampled[row] for row in range(len(sequences))]


def _take_best(logits: torch.Tensor) -> list[SampledToken | SamplingFailure]:
    """Return the best token of each row, for greedy rows whose parameters change no score."""
    best, token_ids = to_lists(best_columns(logits))
    failure = SamplingFailure(INVALID_LOGITS, FailureCause.MODEL)
    pairs = zip(token_ids, best, strict=True)
    return [SampledToken(token) if score < torch.inf else failure for token, score in pairs]


class RawLogprobs:
    """Log-probabilities of the model's own logits, for the rows that report them."""

    def __init__(self, logits: torch.Tensor, sequences: SequenceViews) -> None:
        """Read the logits before a processor changes them."""
        rows = [
            row
            for row, sequence in enumerate(sequences)
            if sequence.params.raw_logprobs and sequence.params.wants_logprobs
        ]
        self._places = {row: place for place, row in enumerate(rows)}
        self._logprobs = take_rows(logits, rows).log_softmax(dim=-1) if rows else None

    def add_to(self, choice: Choice, rows: list[int]) -> Choice:
        """Return the choice for `rows` with what they report."""
        reporting = [place for place, row in enumerate(rows) if row in self._places]
        if self._logprobs is None or not reporting:
            return choice
        logprobs = take_rows(self._logprobs, [self._places[rows[place]] for place in reporting])
        columns = take_rows(choice.token_ids[:, None], reporting)[:, 0]
        own = Logprobs.of(logprobs, columns, reporting, choice.sequences)
        return replace(choice, logprobs=[*choice.logprobs, own])


def _find_invalid(best: list[float], sequences: SequenceViews) -> dict[int, SamplingFailure]:
    """Find rows with nan or +inf by their best logit, unless their requests repair them."""
    return {
        row: SamplingFailure(INVALID_LOGITS, FailureCause.MODEL)
        for row, score in enumerate(best)
        if not score < torch.inf and not sequences[row].params.remove_invalid_values
    }


def _find_dead_ends(best: list[float], sequences: SequenceViews) -> dict[int, SamplingFailure]:
    """Find rows in which the grammar and the bans leave no token, in greedy mode too."""
    return {
        row: _dead_end(constraint.failure(sequence.generated_token_ids))
        for row, (score, sequence) in enumerate(zip(best, sequences, strict=True))
        if (constraint := sequence.constraint) is not None and score == -torch.inf
    }


def _dead_end(reason: str | None) -> SamplingFailure:
    """Return the failure of a row: the grammar's own, or that of the bans together with it."""
    if reason is not None:
        return SamplingFailure(reason, FailureCause.GRAMMAR)
    return SamplingFailure(OFF_GRAMMAR, FailureCause.PARAMETERS)


def _process_in_place(scores: TiledScores, sequences: SequenceViews) -> TiledScores:
    """Apply the in-place processors; return the tiles of the result."""
    if not any(sequence.pipeline.in_place_processors for sequence in sequences):
        return scores
    apply_in_place_processors(scores.scores, sequences)
    return TiledScores(scores.scores)


def _rows_by_method(
    scores: TiledScores, sequences: SequenceViews
) -> dict[SamplingMethod, list[int]]:
    rows_of: defaultdict[SamplingMethod, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        rows_of[SamplingMethod.of(sequence, scores)].append(row)
    return rows_of


def _choose(
    method: SamplingMethod, scores: TiledScores, rows: list[int], sequences: SequenceViews
) -> Choice:
    match method:
        case SamplingMethod.GREEDY:
            return _choice(scores.scores, rows, scores.argmax(scores.index(rows)), sequences)
        case SamplingMethod.GREEDY_PROCESSED:
            processed = TiledScores(apply_row_processors(scores.rows(rows), sequences))
            rows = list(range(len(rows)))
            columns = processed.argmax(processed.index(rows))
            return _choice(processed.scores, rows, columns, sequences)
        case SamplingMethod.TOP_K:
            return _choose_top_k(scores, rows, sequences)
        case SamplingMethod.FULL:
            processed_scores = apply_row_processors(scores.rows(rows), sequences)
            columns = multinomial_tiled(processed_scores, _uniforms(scores, sequences))
            choice = _choice(processed_scores, list(range(len(rows))), columns, sequences)
            return replace(choice, best=processed_scores.amax(dim=-1))


def _choose_top_k(scores: TiledScores, rows: list[int], sequences: SequenceViews) -> Choice:
    shortlist = scores.shortlist(
        scores.index(rows),
        count_per_row(scores.scores, (s.params.num_candidates or 0 for s in sequences)),
        per_row(scores.scores, (s.params.temperature for s in sequences)),
    )
    candidates = apply_row_processors(shortlist.scores, sequences)
    columns = multinomial(candidates, _uniforms(scores, sequences))
    rows = list(range(len(rows)))
    choice = _choice(candidates, rows, columns, sequences, shortlist.token_ids)
    return replace(choice, best=candidates.amax(dim=-1))


def _uniforms(scores: TiledScores, sequences: SequenceViews) -> torch.Tensor:
    """Return the random number of each sequence's next token, float64 [n]."""
    uniform = uniforms(
        [sequence.params.seed for sequence in sequences],
        [sequence.index for sequence in sequences],
        [sequence.num_generated_tokens for sequence in sequences],
    )
    return upload([uniform], scores.maxima.device)[0]


def _choice(
    scores: torch.Tensor,
    rows: list[int],
    columns: torch.Tensor,
    sequences: SequenceViews,
    token_ids: torch.Tensor | None = None,
) -> Choice:
    """Choose `columns` int64 [n] of n `rows` of processed `scores` float32 [m, width].

    Column i of a row is token `token_ids[row, i]`, or token i.
    """
    tokens = columns if token_ids is None else token_ids.gather(-1, columns[:, None])[:, 0]
    reporting = [
        place
        for place, sequence in enumerate(sequences)
        if sequence.params.wants_logprobs and not sequence.params.raw_logprobs
    ]
    if not reporting:
        return Choice(sequences, tokens, [])
    logprobs = Logprobs.of(
        take_rows(scores, [rows[place] for place in reporting]).log_softmax(dim=-1),
        take_rows(columns[:, None], reporting)[:, 0],
        reporting,
        sequences,
        None if token_ids is None else take_rows(token_ids, reporting),
    )
    return Choice(sequences, tokens, [logprobs])
