"""The ordered tables of logits processors: a new one is a small class and a line here.

The order is that of `_get_logits_processor` in transformers 5: the edits, then the shapers. Each
goes over all the rows that use it at once, whatever else those rows use.
"""

from collections import defaultdict

import torch

from worker.engine.sampling.logits_processors.bans import (
    BeginSuppressTokens,
    EncoderNoRepeatNgram,
    MinLength,
    NoRepeatNgram,
    SuppressTokens,
)
from worker.engine.sampling.logits_processors.base import Edit, Processor, Shaper
from worker.engine.sampling.logits_processors.forced import ForcedBos, ForcedEos
from worker.engine.sampling.logits_processors.penalties import (
    BadWords,
    ExponentialDecayLengthPenalty,
    RepetitionPenalty,
    SequenceBias,
)
from worker.engine.sampling.logits_processors.repair import RemoveInvalidValues, Renormalize
from worker.engine.sampling.logits_processors.warpers import (
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence

EDITS: tuple[Edit, ...] = (
    SequenceBias(),
    RepetitionPenalty(),
    NoRepeatNgram(),
    EncoderNoRepeatNgram(),
    BadWords(),
    MinLength(),
    ForcedBos(),
    ForcedEos(),
    RemoveInvalidValues(),
    ExponentialDecayLengthPenalty(),
    SuppressTokens(),
    BeginSuppressTokens(),
)
SHAPERS: tuple[Shaper, ...] = (
    Temperature(),
    TopK(),
    TopP(),
    MinP(),
    TypicalP(),
    EpsilonCutoff(),
    EtaCutoff(),
    Renormalize(),
)


def active_processors(params: SamplingParams) -> tuple[Processor, ...]:
    """The processors that these parameters need, in order; to be asked once per request."""
    edits = [edit for edit in EDITS if edit.is_active(params)]
    shapers = [
        shaper
        for shaper in SHAPERS
        if shaper.is_active(params) and (params.do_sample or not shaper.is_warper)
    ]
    return (*edits, *shapers)


def process(scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """What `generate` would make of float32 `scores` [n, vocab], one row per sequence.

    Logits, or log-probabilities where beams are searched. `scores` are spent: edited in place.
    """
    edit(scores, sequences)
    return shape(scores, sequences)


def edit(scores: torch.Tensor, sequences: list[Sequence]) -> None:
    """Apply to `scores` [n, vocab], in place, each edit to the rows that use it."""
    rows_of = _rows_by_processor(sequences)
    for processor in EDITS:
        if rows := rows_of.get(processor):
            processor(scores, rows, [sequences[row] for row in rows])


def shape(scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Apply to `scores` [n, width] each shaper to the rows that use it; may work in place.

    The columns need not be the whole vocabulary, but those left out must have been ruled out.
    """
    rows_of = _rows_by_processor(sequences)
    for processor in SHAPERS:
        rows = rows_of.get(processor, [])
        if len(rows) == len(sequences):
            scores = processor(scores, sequences)
        elif rows:
            index = _index(rows, scores.device)
            scores[index] = processor(scores[index], [sequences[row] for row in rows])
    return scores


def _index(rows: list[int], device: torch.device) -> slice | torch.Tensor:
    """An index of ascending `rows`; a slice, which copies nothing, where none lies between them."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)


def _rows_by_processor(sequences: list[Sequence]) -> dict[Processor, list[int]]:
    rows_of: defaultdict[Processor, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        for processor in sequence.processors:
            rows_of[processor].append(row)
    return rows_of
