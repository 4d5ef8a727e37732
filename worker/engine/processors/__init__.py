"""The ordered table of logits processors: a new one is a small class and a line here.

The order is that of `_get_logits_processor` in transformers 5.
"""

from worker.engine.params import SamplingParams
from worker.engine.processors.bans import (
    BeginSuppressTokens,
    EncoderNoRepeatNgram,
    MinLength,
    NoRepeatNgram,
    SuppressTokens,
)
from worker.engine.processors.base import Processor
from worker.engine.processors.forced import ForcedBos, ForcedEos
from worker.engine.processors.penalties import (
    BadWords,
    ExponentialDecayLengthPenalty,
    RepetitionPenalty,
    SequenceBias,
)
from worker.engine.processors.repair import RemoveInvalidValues, Renormalize
from worker.engine.processors.warpers import (
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)

PROCESSORS: tuple[Processor, ...] = (
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
    return tuple(
        processor
        for processor in PROCESSORS
        if processor.is_active(params) and (params.do_sample or not processor.is_warper)
    )
