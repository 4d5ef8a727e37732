"""Processors that mend or normalize all scores of a row."""

import torch

from worker.engine.params import SamplingParams
from worker.engine.processors.base import Processor
from worker.engine.sequence import Sequence


class RemoveInvalidValues(Processor):
    """nan becomes 0; ±inf, also that of bans before it, the largest and smallest number."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.remove_invalid_values

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        return scores.nan_to_num_(nan=0.0)


class Renormalize(Processor):
    """Make the scores log-probabilities again; always the last."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.renormalize_logits

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        return scores.log_softmax(dim=-1)
