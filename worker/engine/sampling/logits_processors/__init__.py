"""Logits processors: to add one, write a small class and add it to a table here.

The order is that of `_get_logits_processor` in transformers 5: the edits, then the shapers. Each
processor handles all rows that use it at once. Other packages import `base` (Row,
LogitsPipeline).
"""

from collections import defaultdict

import torch

from worker.engine.sampling.logits_processors.bans import (
    BadWords,
    BeginSuppressTokens,
    EncoderNoRepeatNgram,
    ForcedBos,
    ForcedEos,
    MinLength,
    NoRepeatNgram,
    SuppressTokens,
    banned_sequences,
)
from worker.engine.sampling.logits_processors.base import Edit, LogitsPipeline, Rows, Shaper
from worker.engine.sampling.logits_processors.penalties import (
    ExponentialDecayLengthPenalty,
    RemoveInvalidValues,
    Renormalize,
    RepetitionPenalty,
    SequenceBias,
    biased_sequences,
)
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
# With top-k, the sampler passes only the columns that may be among the `num_candidates` best after
# division by temperature. So no shaper but Temperature may come before TopK.
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


def make_pipeline(params: SamplingParams) -> LogitsPipeline:
    """Select the processors that a request needs. Call it once per request."""
    shapers = [s for s in SHAPERS if params.do_sample or not s.is_warper]
    return LogitsPipeline(
        edits=tuple(edit for edit in EDITS if edit.is_active(params)),
        shapers=tuple(shaper for shaper in shapers if shaper.is_active(params)),
        biased_sequences=biased_sequences(params),
        banned_sequences=banned_sequences(params),
    )


def process(scores: torch.Tensor, sequences: Rows) -> torch.Tensor:
    """Process float32 `scores` [n, vocab], one row per sequence, as `generate` would.

    `scores` are logits, or log-probabilities in a beam search. They are edited in place.
    """
    apply_edits(scores, sequences)
    return apply_shapers(scores, sequences)


def apply_edits(scores: torch.Tensor, sequences: Rows) -> None:
    """Apply each edit to the rows of `scores` [n, vocab] that use it, in place."""
    rows_of: defaultdict[Edit, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        for processor in sequence.pipeline.edits:
            rows_of[processor].append(row)
    for processor in EDITS:
        if rows := rows_of.get(processor):
            processor(scores, rows, [sequences[row] for row in rows])


def apply_shapers(scores: torch.Tensor, sequences: Rows) -> torch.Tensor:
    """Apply each shaper to the rows of `scores` [n, width] that use it; may work in place.

    The columns need not be the whole vocabulary: tokens that cannot be sampled may be left out.
    """
    rows_of: defaultdict[Shaper, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        for processor in sequence.pipeline.shapers:
            rows_of[processor].append(row)
    for processor in SHAPERS:
        rows = rows_of.get(processor, [])
        if len(rows) == len(sequences):
            scores = processor(scores, sequences)
        elif rows:
            index = _index(rows, scores.device)
            scores[index] = processor(scores[index], [sequences[row] for row in rows])
    return scores


def _index(rows: list[int], device: torch.device) -> slice | torch.Tensor:
    """Return an index of ascending `rows`; a slice, which copies nothing, if they are adjacent."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
