"""Logits processors: to add one, write a small class and add it to a table here.

The order is that of `_get_logits_processor` in transformers 5: in-place processors, then row
processors. Each handles all rows that use it at once. Other packages import `base` (SequenceView,
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
    Grammar,
    MinLength,
    NoRepeatNgram,
    SuppressTokens,
    banned_sequences,
)
from worker.engine.sampling.logits_processors.base import (
    InPlaceProcessor,
    LogitsPipeline,
    RowProcessor,
    SequenceViews,
)
from worker.engine.sampling.logits_processors.penalties import (
    ExponentialDecayLengthPenalty,
    GeneratedTokenPenalties,
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

IN_PLACE_PROCESSORS: tuple[InPlaceProcessor, ...] = (
    SequenceBias(),
    RepetitionPenalty(),
    GeneratedTokenPenalties(),  # transformers has none; in vLLM's place
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
    Grammar(),  # transformers has none; last, so that nothing puts a banned token back
)
# With top-k, the sampler passes only the columns that may be among the `num_candidates` best after
# division by temperature. So no row processor but Temperature may come before TopK.
ROW_PROCESSORS: tuple[RowProcessor, ...] = (
    Temperature(),
    TopK(),
    TopP(),
    MinP(),
    TypicalP(),
    EpsilonCutoff(),
    EtaCutoff(),
    Renormalize(),
)
PLAIN_PROCESSORS = frozenset(ROW_PROCESSORS[:3])  # temperature, top-k and top-p


def make_pipeline(params: SamplingParams) -> LogitsPipeline:
    """Select the processors that a request needs. Call it once per request."""
    in_place_processors = tuple(p for p in IN_PLACE_PROCESSORS if p.is_active(params))
    candidates = [p for p in ROW_PROCESSORS if params.do_sample or not p.is_warper]
    row_processors = tuple(p for p in candidates if p.is_active(params))
    has_processors = bool(in_place_processors or row_processors)
    is_plain = not in_place_processors and PLAIN_PROCESSORS.issuperset(row_processors)
    return LogitsPipeline(
        in_place_processors=in_place_processors,
        row_processors=row_processors,
        biased_sequences=biased_sequences(params),
        banned_sequences=banned_sequences(params),
        takes_best=not (params.do_sample or has_processors or params.wants_logprobs),
        samples_plainly=params.do_sample and is_plain and not params.wants_logprobs,
    )


def process(scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
    """Process float32 `scores` [n, vocab], one row per sequence, as `generate` would.

    `scores` are logits, or log-probabilities in a beam search. They are changed in place.
    """
    apply_in_place_processors(scores, sequences)
    return apply_row_processors(scores, sequences)


def apply_in_place_processors(scores: torch.Tensor, sequences: SequenceViews) -> None:
    """Apply each in-place processor to the rows of `scores` [n, vocab] that use it, in place."""
    rows_of: defaultdict[InPlaceProcessor, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        for processor in sequence.pipeline.in_place_processors:
            rows_of[processor].append(row)
    for processor in IN_PLACE_PROCESSORS:
        if rows := rows_of.get(processor):
            processor(scores, rows, [sequences[row] for row in rows])


def apply_row_processors(scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
    """Apply each row processor to the rows of `scores` [n, width] that use it; may work in place.

    The columns need not be the whole vocabulary: tokens that cannot be sampled may be left out.
    """
    rows_of: defaultdict[RowProcessor, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        for processor in sequence.pipeline.row_processors:
            rows_of[processor].append(row)
    for processor in ROW_PROCESSORS:
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
