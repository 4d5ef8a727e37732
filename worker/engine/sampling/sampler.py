"""Chooses the next token of each row from its logits.

Owns no state: a choice depends on the row's logits, parameters, seed and tokens alone, to the last
bit, never on the batch it is in.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import Enum, auto

import torch

from worker.engine.outputs import Blame
from worker.engine.sampling.logits_processors import edit, shape
from worker.engine.sampling.logits_processors.base import Edit, Shaper, count_per_row, per_row
from worker.engine.sampling.multinomial import draw, draw_wide
from worker.engine.sampling.philox import uniforms
from worker.engine.sampling.sampled_token import Choice, NoChoice, Options
from worker.engine.sampling.tiled_scores import TiledScores
from worker.engine.sequence import Sequence

INVALID_LOGITS = "the model's logits contain nan or inf; remove_invalid_values would repair them"
NOTHING_TO_SAMPLE = (
    "no token can be sampled: the parameters ban every token or make the scores infinite"
)


class _Way(Enum):
    """How a row comes to its token; rows that go the same way go together."""

    BEST = auto()
    BEST_SHAPED = auto()
    DRAWN_FROM_FEW = auto()  # top-k leaves so few columns that the others need no look
    DRAWN_FROM_ALL = auto()

    @classmethod
    def of(cls, sequence: Sequence, scores: TiledScores) -> "_Way":
        if not sequence.params.do_sample:
            is_shaped = any(isinstance(processor, Shaper) for processor in sequence.processors)
            return cls.BEST_SHAPED if is_shaped else cls.BEST
        count = sequence.params.num_candidates
        is_short = count is not None and count <= scores.num_tiles
        return cls.DRAWN_FROM_FEW if is_short else cls.DRAWN_FROM_ALL


@torch.inference_mode()
def choose_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[Choice | NoChoice]:
    """The next token of each sequence from float32 `logits` [n, vocab]; never raises for one row.

    A row with nan or inf has no choice, unless its request repairs them; its neighbours do.
    `logits` are spent: penalties and bans work in place.
    """
    if not sequences:
        return []
    scores = TiledScores(logits)
    choices: dict[int, Choice | NoChoice] = {}
    problems = _find_invalid(scores, sequences)
    scores = _edited(scores, sequences)
    for way, rows in _rows_by_way(scores, sequences).items():
        members = [sequences[row] for row in rows]
        choices |= zip(rows, _CHOOSERS[way](scores, rows, members), strict=True)
    return [problems.get(row) or choices[row] for row in range(len(sequences))]


def _find_invalid(logits: TiledScores, sequences: list[Sequence]) -> dict[int, NoChoice]:
    """Rows with nan or +inf that nobody will repair."""
    return {
        row: NoChoice(INVALID_LOGITS, Blame.MODEL)
        for row, best in enumerate(logits.best().tolist())
        if not best < torch.inf and not sequences[row].params.remove_invalid_values
    }


def _edited(scores: TiledScores, sequences: list[Sequence]) -> TiledScores:
    """The scores after the edits, which work in place."""
    if not any(isinstance(processor, Edit) for s in sequences for processor in s.processors):
        return scores
    edit(scores.scores, sequences)
    return TiledScores(scores.scores)


def _rows_by_way(scores: TiledScores, sequences: list[Sequence]) -> dict[_Way, list[int]]:
    rows_of: defaultdict[_Way, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        rows_of[_Way.of(sequence, scores)].append(row)
    return rows_of


def _choose_best(scores: TiledScores, rows: list[int], sequences: list[Sequence]) -> list[Choice]:
    return Options(scores.scores).choices(rows, scores.argmax(scores.index(rows)), sequences)


def _choose_best_shaped(
    scores: TiledScores, rows: list[int], sequences: list[Sequence]
) -> list[Choice]:
    shaped = TiledScores(shape(scores.rows(rows), sequences))
    return _choose_best(shaped, list(range(len(rows))), sequences)


def _draw_from_few(
    scores: TiledScores, rows: list[int], sequences: list[Sequence]
) -> list[Choice | NoChoice]:
    few = scores.shortlist(
        scores.index(rows),
        count_per_row(scores.scores, (s.params.num_candidates or 0 for s in sequences)),
        per_row(scores.scores, (s.params.temperature for s in sequences)),
    )
    options = Options(shape(few.scores, sequences), few.token_ids)
    return _if_possible(options, draw(options.scores, _uniforms(scores, sequences)), sequences)


def _draw_from_all(
    scores: TiledScores, rows: list[int], sequences: list[Sequence]
) -> list[Choice | NoChoice]:
    options = Options(shape(scores.rows(rows), sequences))
    return _if_possible(options, draw_wide(options.scores, _uniforms(scores, sequences)), sequences)


_Chooser = Callable[[TiledScores, list[int], list[Sequence]], Iterable[Choice | NoChoice]]
_CHOOSERS: dict[_Way, _Chooser] = {
    _Way.BEST: _choose_best,
    _Way.BEST_SHAPED: _choose_best_shaped,
    _Way.DRAWN_FROM_FEW: _draw_from_few,
    _Way.DRAWN_FROM_ALL: _draw_from_all,
}


def _uniforms(scores: TiledScores, sequences: list[Sequence]) -> torch.Tensor:
    """The random number that each sequence has for its next token, float64 [n]."""
    uniform = uniforms(
        [sequence.params.seed for sequence in sequences],
        [sequence.index for sequence in sequences],
        [sequence.num_generated_tokens for sequence in sequences],
    )
    return torch.from_numpy(uniform).to(scores.maxima.device)


def _if_possible(
    options: Options, columns: torch.Tensor, sequences: list[Sequence]
) -> list[Choice | NoChoice]:
    """The drawn columns as choices, but for rows whose scores form no distribution."""
    choices = options.choices(list(range(len(sequences))), columns, sequences)
    is_possible = options.scores.amax(dim=-1).isfinite().tolist()
    nothing = NoChoice(NOTHING_TO_SAMPLE, Blame.PARAMETERS)
    return [
        choice if possible else nothing
        for choice, possible in zip(choices, is_possible, strict=True)
    ]
