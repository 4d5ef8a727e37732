"""Processors that mend or normalize all scores of a row."""

import torch

from worker.engine.sampling.logits_processors.base import Edit, Shaper
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence


class RemoveInvalidValues(Edit):
    """nan becomes 0; ±inf, also that of bans before it, the largest and smallest number."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.remove_invalid_values

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: list[Sequence]) -> None:
        for row in rows:
            scores[row].nan_to_num_(nan=0.0)


class Renormalize(Shaper):
    """Make the scores log-probabilities again; always the last."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.renormalize_logits

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        return scores.log_softmax(dim=-1)
