"""Sample the next token of each row from its logits.

Stateless: a token depends on the row's logits, parameters, seed and tokens alone, to the last bit,
never on other rows of the batch.
"""

from collections import defaultdict
from collections.abc import Iterable
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
    CandidateTokens,
    SampledToken,
    SamplingFailure,
    logprobs_of,
)
from worker.engine.sampling.tiled_scores import TiledScores
from worker.engine.sampling_params import SamplingParams

INVALID_LOGITS = "the model's logits contain nan or inf; remove_invalid_values would repair them"
NOTHING_TO_SAMPLE = (
    "no token can be sampled: the parameters ban every token or make the scores infinite"
)


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
    scores = TiledScores(logits)
    raw = _raw_logprobs(logits, sequences)
    sampled: dict[int, SampledToken | SamplingFailure] = {}
    failures = _find_invalid(scores, sequences)
    scores = _process_in_place(scores, sequences)
    failures = _find_dead_ends(scores, sequences) | failures
    for method, rows in _rows_by_method(scores, sequences).items():
        members = [sequences[row] for row in rows]
        sampled |= zip(rows, _sample(method, scores, rows, members), strict=True)
    for row, logprobs in raw.items():
        sampled[row] = _with_raw_logprobs(sampled[row], logprobs, sequences[row].params)
    return [failures.get(row) or sampled[row] for row in range(len(sequences))]


def _raw_logprobs(logits: torch.Tensor, sequences: SequenceViews) -> dict[int, torch.Tensor]:
    """Return log-probabilities [vocab] of the model's logits, for the rows that want them."""
    return {
        row: logits[row].log_softmax(dim=-1)
        for row, sequence in enumerate(sequences)
        if sequence.params.raw_logprobs and sequence.params.wants_logprobs
    }


def _with_raw_logprobs(
    token: SampledToken | SamplingFailure, logprobs: torch.Tensor, params: SamplingParams
) -> SampledToken | SamplingFailure:
    if isinstance(token, SamplingFailure):
        return token
    return logprobs_of(token.token_id, token.token_id, logprobs, params)


def _find_invalid(logits: TiledScores, sequences: SequenceViews) -> dict[int, SamplingFailure]:
    """Find rows with nan or +inf, unless their requests repair them."""
    return {
        row: SamplingFailure(INVALID_LOGITS, FailureCause.MODEL)
        for row, best in enumerate(logits.best().tolist())
        if not best < torch.inf and not sequences[row].params.remove_invalid_values
    }


def _find_dead_ends(scores: TiledScores, sequences: SequenceViews) -> dict[int, SamplingFailure]:
    """Find rows in which the grammar and the bans leave no token, in greedy mode too."""
    if not any(sequence.constraint for sequence in sequences):
        return {}
    return {
        row: SamplingFailure(
            constraint.failure(sequence.generated_token_ids) or OFF_GRAMMAR, FailureCause.PARAMETERS
        )
        for row, (best, sequence) in enumerate(zip(scores.best().tolist(), sequences, strict=True))
        if (constraint := sequence.constraint) is not None and best == -torch.inf
    }


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


def _sample(
    method: SamplingMethod, scores: TiledScores, rows: list[int], sequences: SequenceViews
) -> Iterable[SampledToken | SamplingFailure]:
    match method:
        case SamplingMethod.GREEDY:
            return _select_best(scores, rows, sequences)
        case SamplingMethod.GREEDY_PROCESSED:
            processed = TiledScores(apply_row_processors(scores.rows(rows), sequences))
            return _select_best(processed, list(range(len(rows))), sequences)
        case SamplingMethod.TOP_K:
            return _sample_top_k(scores, rows, sequences)
        case SamplingMethod.FULL:
            candidates = CandidateTokens(apply_row_processors(scores.rows(rows), sequences))
            columns = multinomial_tiled(candidates.scores, _uniforms(scores, sequences))
            return _select_if_possible(candidates, columns, sequences)


def _select_best(
    scores: TiledScores, rows: list[int], sequences: SequenceViews
) -> list[SampledToken]:
    return CandidateTokens(scores.scores).select(rows, scores.argmax(scores.index(rows)), sequences)


def _sample_top_k(
    scores: TiledScores, rows: list[int], sequences: SequenceViews
) -> list[SampledToken | SamplingFailure]:
    shortlist = scores.shortlist(
        scores.index(rows),
        count_per_row(scores.scores, (s.params.num_candidates or 0 for s in sequences)),
        per_row(scores.scores, (s.params.temperature for s in sequences)),
    )
    candidates = CandidateTokens(
        apply_row_processors(shortlist.scores, sequences), shortlist.token_ids
    )
    columns = multinomial(candidates.scores, _uniforms(scores, sequences))
    return _select_if_possible(candidates, columns, sequences)


def _uniforms(scores: TiledScores, sequences: SequenceViews) -> torch.Tensor:
    """Return the random number of each sequence's next token, float64 [n]."""
    uniform = uniforms(
        [sequence.params.seed for sequence in sequences],
        [sequence.index for sequence in sequences],
        [sequence.num_generated_tokens for sequence in sequences],
    )
    return torch.from_numpy(uniform).to(scores.maxima.device)


def _select_if_possible(
    candidates: CandidateTokens, columns: torch.Tensor, sequences: SequenceViews
) -> list[SampledToken | SamplingFailure]:
    """Return the tokens in `columns`; a failure for rows without a distribution."""
    tokens = candidates.select(list(range(len(sequences))), columns, sequences)
    is_possible = candidates.scores.amax(dim=-1).isfinite().tolist()
    failure = SamplingFailure(NOTHING_TO_SAMPLE, FailureCause.PARAMETERS)
    return [
        token if possible else failure for token, possible in zip(tokens, is_possible, strict=True)
    ]
